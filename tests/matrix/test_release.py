"""What LAD needs of a release of verl: CI runs this with the newest, `make matrix` (run.py) with each supported one."""

import subprocess
import sys

import pytest
import torch
import verl
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from packaging.version import Version
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import agg_loss, get_adv_estimator_fn, get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

import verl_lad.adapters.verl as adapter
from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES
from verl_lad.adapters.verl.settings import LADAlgoConfig, LADPolicyLossConfig

VERSION = Version(verl.__version__)
LAD = ("algorithm.policy_loss=lad", "algorithm.adv_estimator=lad", "algorithm.lad.eta=0.5")
MICRO = (
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
)
TIME_LIMIT = 280
"""Seconds for a process that imports verl: a net, not an expectation."""
PROMPTS, RESPONSES = [2, 3, 1, 4], [5, 1, 3, 4]
B, T = len(RESPONSES), max(RESPONSES)


@pytest.fixture
def composed():
    def run(*overrides, name="ppo_trainer"):
        GlobalHydra.instance().clear()
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(name, overrides=list(overrides))

    yield run
    GlobalHydra.instance().clear()


def test_registration():
    assert adapter.load_error is None
    assert get_policy_loss_fn("lad").__module__ == "verl_lad.adapters.verl.policy_loss"
    assert get_adv_estimator_fn("lad").__module__ == "verl_lad.adapters.verl.advantage"


def test_registration_in_a_fresh_process_by_import_verl_alone():
    code = "import verl; from verl.trainer.ppo.core_algos import get_policy_loss_fn as g; print(g('lad').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    assert done.stdout.split() == ["compute_policy_loss_lad"], done.stderr[-2000:]


@pytest.mark.parametrize("name", ["ppo_trainer", "ppo_megatron_trainer"])
def test_composition(name, composed):
    if name == "ppo_megatron_trainer" and VERSION.release < (0, 8, 0):  # it does not inherit ppo_trainer yet
        with pytest.raises(ConfigCompositionException, match=r"algorithm\.policy_loss"):
            composed(*LAD, name=name)
        return
    policy_loss = composed(*LAD, name=name).actor_rollout_ref.actor.policy_loss
    assert (policy_loss.loss_mode, policy_loss.lad.eta) == ("lad", 0.5)
    assert composed(name=name).actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"


def test_composition_from_the_command_line_of_main_ppo():
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *LAD, "--cfg", "job", "--resolve"],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss_mode: lad" in done.stdout


def test_dataclasses(composed):
    config = composed(*LAD, *MICRO)
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=False, use_critic=False)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(actor.policy_loss, LADPolicyLossConfig)
    assert actor.policy_loss.lad == LADConfig(eta=0.5)
    assert isinstance(omega_conf_to_dataclass(config.algorithm), LADAlgoConfig)


def test_bad_settings_are_refused(composed):
    config = composed(*LAD, "algorithm.lad.divergence=nonsense")
    with pytest.raises(Exception, match=r"algorithm\.lad\.divergence='nonsense'"):
        OmegaConf.resolve(config)


def test_a_name_that_verl_does_not_hold_is_refused(composed):
    for override in ("algorithm.policy_loss=LAD", "algorithm.adv_estimator=LAD"):
        with pytest.raises(Exception, match="='LAD' is not allowed: verl holds"):
            OmegaConf.resolve(composed(override))


def test_the_bypass_mode_of_the_trainer_that_drops_the_loss_is_refused(composed):
    legacy = ("+" if VERSION.release < (0, 9, 0) else "") + "trainer.use_v1=false"
    for overrides in ([legacy],) if VERSION.release >= (0, 9, 0) else ([], [legacy]):
        config = composed(*LAD, "algorithm.rollout_correction.bypass_mode=true", *overrides)
        with pytest.raises(Exception, match="bypass_mode=True is not allowed"):
            OmegaConf.resolve(config)


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@pytest.mark.parametrize("agg_mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("divergence", ["js", "hellinger", "kl", "rkl"])
def test_gradient_of_ppo_loss_is_that_of_the_reference(divergence, ratio, agg_mode):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    settings = LADConfig(eta=0.5, divergence=divergence, ratio=ratio)
    mask = torch.arange(T) < torch.tensor(RESPONSES)[:, None]
    mask[0, 2] = False  # as a tool's output within a response
    old_log_prob, advantages = -random(B, T).abs() * mask, random(B, 1).expand(B, T)
    lengths = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    model_log_prob = random(sum(lengths)).requires_grad_()
    columns = {"response_mask": mask, "old_log_probs": old_log_prob, "advantages": advantages.contiguous()}
    if VERSION.release < (0, 8, 0):  # its engine hands ppo_loss padded tensors
        width = max(PROMPTS)
        prompt_mask = torch.arange(width) >= width - torch.tensor(PROMPTS)[:, None]
        response_mask = torch.arange(T) < torch.tensor(RESPONSES)[:, None]
        columns |= {
            "prompts": torch.ones(B, width, dtype=torch.long),
            "responses": torch.ones(B, T, dtype=torch.long),
            "attention_mask": torch.cat([prompt_mask, response_mask], dim=1).long(),
        }
    else:
        columns = {key: nested(row[:n] for row, n in zip(x, RESPONSES, strict=True)) for key, x in columns.items()}
        columns["prompts"] = nested(torch.ones(n, dtype=torch.long) for n in PROMPTS)
        columns["responses"] = nested(torch.ones(n, dtype=torch.long) for n in RESPONSES)
    data = TensorDict(columns, batch_size=[B])
    counts = {"dp_size": 2, "batch_num_tokens": 23, "global_batch_size": 8}
    tu.assign_non_tensor(data, **counts)
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=agg_mode,
        policy_loss=LADPolicyLossConfig(loss_mode="lad", lad=settings),
    )
    ends = torch.tensor([0, *lengths]).cumsum(0)
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(model_log_prob, ends)}
    loss, metrics = ppo_loss(config, output, data)
    (gradient,) = torch.autograd.grad(loss, model_log_prob)

    log_prob = torch.zeros(B, T, dtype=torch.float64)
    index = [torch.arange(end - n - 1, end - 1) for end, n in zip(ends[1:], RESPONSES, strict=True)]
    for row, columns_of_row in enumerate(index):
        log_prob[row, : len(columns_of_row)] = model_log_prob.detach()[columns_of_row]
    log_prob.requires_grad_()
    matrix = lad_loss_reference(log_prob, old_log_prob, advantages, mask, settings)
    (expected,) = torch.autograd.grad(agg_loss(matrix, mask, agg_mode, **counts), log_prob)
    for row, columns_of_row in enumerate(index):
        torch.testing.assert_close(
            gradient[columns_of_row], expected[row, : len(columns_of_row)], rtol=1e-10, atol=1e-12
        )
    assert gradient.count_nonzero() <= mask.sum()
    assert set(METRIC_NAMES.values()) <= set(metrics)
