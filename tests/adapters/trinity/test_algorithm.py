"""Our algorithm and loss inside Trinity-RFT."""

import math

import pytest
import ray
import torch
from trinity.algorithm import ALGORITHM_TYPE, POLICY_LOSS_FN

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.trinity.algorithm import LOSS_AGG_MODES, METRIC_NAMES, STEP_WISE, LADPolicyLossFn

from ..conftest import FRAMEWORKS
from .loss_inside import ALGORITHM, MASK, T, batch, gradient, validated

DIVERGENCES = ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"]
MODES = [(ratio, mode) for ratio, modes in LOSS_AGG_MODES.items() for mode in modes]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("ratio", "loss_agg_mode"), MODES)
def test_gradient_of_trinitys_loss_is_the_references_with_nan_in_masked_slots(ratio, loss_agg_mode, divergence):
    tensors = batch(torch.Generator().manual_seed(0))
    got, metrics = gradient(validated(loss_agg_mode, eta=0.5, ratio=ratio, divergence=divergence), tensors)
    settings = LADConfig(eta=0.5, ratio=ratio, divergence=divergence)
    log_prob = tensors["log_prob"].clone().requires_grad_()
    matrix = lad_loss_reference(log_prob, tensors["old_log_prob"], tensors["advantages"], MASK, settings)
    sums, counts = matrix.sum(-1), MASK.sum(-1)
    total = {
        "token-mean": sums.sum() / counts.sum(), "seq-mean-token-sum": sums.mean(),
        "seq-mean-token-mean": (sums / counts).mean(), "seq-mean-token-sum-norm": sums.sum() / T,
    }[loss_agg_mode]  # fmt: skip
    (wanted,) = torch.autograd.grad(total, log_prob)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)  # Trinity divides by counts + 1e-8
    assert all(math.isfinite(metrics[f"actor/{name}"]) for name in METRIC_NAMES)


def test_one_key_makes_trinitys_grpo_train_with_lad():
    ours = validated()
    grpo = ALGORITHM_TYPE.get("grpo").default_config()
    assert POLICY_LOSS_FN.get(ours.algorithm.policy_loss_fn) is LADPolicyLossFn
    assert ours.algorithm.policy_loss_fn_args == LADPolicyLossFn.default_args()
    for key in ("advantage_fn", "sample_strategy", "kl_penalty_fn", "entropy_loss_fn"):
        assert getattr(ours.algorithm, key) == grpo[key]


def test_loss_agg_mode_reaches_the_loss_beside_given_settings():
    args = validated("seq-mean-token-sum", eta=0.5, ratio="sequence").algorithm.policy_loss_fn_args
    made = LADPolicyLossFn(**args)
    assert made.loss_agg_mode == "seq-mean-token-sum"
    assert made.settings == LADConfig(eta=0.5, ratio="sequence")


@pytest.mark.parametrize(
    ("loss_agg_mode", "args", "words"),
    [
        (None, {"eta": 0}, r"algorithm\.policy_loss_fn_args\.eta=0 is not allowed"),
        (None, {"etta": 1}, r"policy_loss_fn_args\.etta=1 is not available here; allowed: eta, divergence"),
        (None, {"anchor": "reference"}, "anchor='reference' is not available"),
        (None, {"partition": "group"}, "partition='group' is not available"),
        (None, {"ratio": "sequence"}, r"loss_agg_mode='token-mean' does not go with .*ratio='sequence'"),
        ("seq-mean-token-sum", {"ratio": "geometric"}, "allowed is seq-mean-token-mean"),
        ("mean", {}, "loss_agg_mode='mean'"),
    ],
)
def test_contradictions_are_refused_by_name_with_the_configuration(loss_agg_mode, args, words):
    with pytest.raises(ValueError, match=words):
        validated(loss_agg_mode, **args)


@pytest.mark.parametrize("advantage_fn", STEP_WISE)
def test_the_ratio_of_a_response_is_refused_where_each_turn_is_an_experience(advantage_fn):
    with pytest.raises(ValueError, match=rf"advantage_fn='{advantage_fn}' does not go with .*ratio='geometric'"):
        validated("seq-mean-token-mean", algorithm={"advantage_fn": advantage_fn}, ratio="geometric")
    assert validated(algorithm={"advantage_fn": advantage_fn}).algorithm.advantage_fn == advantage_fn


def test_trinitys_filter_of_groups_without_signal_goes_with_lad():
    args = {"std_threshold": 0.0, "duplicate_experiences": True}
    assert validated(algorithm={"advantage_fn_args": args}).algorithm.advantage_fn_args == args


@pytest.mark.parametrize(
    ("algorithm", "args", "words"),
    [
        ({"repeat_times": 1}, {}, ["algorithm.repeat_times=1", "one response a task"]),
        ({"rollout_correction": {"rollout_is": "token"}}, {}, ["algorithm.rollout_correction", "no effect"]),
        ({"entropy_loss_fn_args": {"entropy_coef": 0.1}}, {}, ["entropy_loss_fn_args.entropy_coef=0.1"]),
        ({}, {"divergence": "tv"}, ["algorithm.policy_loss_fn_args.divergence='tv'"]),
        ({}, {}, None),
    ],
)
def test_warned_of(algorithm, args, words, caplog):
    """Trinity's own default of repeat_times is 1, whatever its GRPO says, so that most runs need the warning."""
    validated(**args, algorithm=algorithm)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("verl_lad")]
    assert len(messages) == (words is not None)
    assert all(word in message for message in messages for word in words), messages


def test_another_loss_and_the_tinker_backend_are_refused():
    config = validated()
    config.algorithm.policy_loss_fn = "ppo"
    algorithm = ALGORITHM_TYPE.get(ALGORITHM)
    with pytest.raises(ValueError, match="policy_loss_fn='ppo' contradicts"):
        algorithm.check_config(config)
    config.model.tinker.enable = True
    with pytest.raises(ValueError, match=r"model\.tinker\.enable=True"):
        algorithm.check_config(config)
    with pytest.raises(ValueError, match="backend='tinker'"):
        LADPolicyLossFn(backend="tinker", loss_agg_mode="token-mean")


def test_a_worker_in_another_process_builds_the_loss_from_its_dotted_name():
    def in_a_worker(algorithm):
        import os
        import sys

        from trinity.trainer.verl.losses import build_trinity_loss

        before = [name for name in sys.modules if name.startswith("verl_lad.adapters.trinity")]
        return os.getpid(), before, build_trinity_loss(algorithm).policy_loss_fn.settings

    import os

    environment = {"env_vars": {"PYTHONPATH": str(FRAMEWORKS)}}
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        config = validated("token-mean", eta=0.5).algorithm
        pid, before, settings = ray.get(ray.remote(num_cpus=1)(in_a_worker).remote(config), timeout=200)
    finally:
        ray.shutdown()
    assert pid != os.getpid()
    assert before == []
    assert settings == LADConfig(eta=0.5)
