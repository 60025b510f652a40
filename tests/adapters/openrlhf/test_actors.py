"""OpenRLHF's own policy worker with our class, in a process of its own: real Ray, DeepSpeed's ZeRO-2, bf16, CPU.

What stands in for a GPU is in without_gpu.py, and nothing else is replaced: init_model_from_pretrained, the replay
buffer, ppo_train, training_step, backward and optimizer step are OpenRLHF's and DeepSpeed's code. vLLM takes no part
here; test_program.py has it.
"""

import math
import os
from types import SimpleNamespace

import pytest
import ray
import torch
from openrlhf.models import PolicyLoss, aggregate_loss
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ray.launcher import RayActorGroup
from openrlhf.utils import get_strategy
from transformers import AutoModelForCausalLM

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.openrlhf import actors
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker
from verl_lad.adapters.openrlhf.policy_loss import METRIC_NAMES

from .conftest import PYTHONPATH, openrlhf_arguments
from .probe import Probe
from .test_arguments import LAD, NO_KL

B, T, ETA = 4, 12, 0.5
UPDATES = 2
PPO = ("--algo.advantage.estimator", "dr_grpo", "--rollout.n_samples_per_prompt", "4")
TRAINING = (
    "--train.batch_size", "4", "--train.micro_batch_size", "4", "--train.max_epochs", f"{UPDATES}",
    "--actor.adam.lr", "1e-2", "--actor.lr_warmup_ratio", "0", "--ds.attn_implementation", "eager",
    "--vllm.sync_backend", "gloo", "--algo.advantage.is_correction_level", "token",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with one slot that counts as a GPU."""
    environment = {"env_vars": {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}}
    hook = {"worker_process_setup_hook": "adapters.openrlhf.without_gpu.stand_in"}
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=environment | hook,
    )
    yield
    ray.shutdown()


def make_experience():
    """Four responses to one prompt, of different lengths, as OpenRLHF's experience maker hands them on."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(B, T - 1, dtype=torch.long)
    lengths = torch.tensor([8, 3, 6, 5])
    for row, length in enumerate(lengths):
        mask[row, 3 : 3 + length] = 1
    old = -torch.rand(B, T - 1, generator=generator) * 2 - 1.5
    return Experience(
        sequences=torch.randint(3, 15, (B, T), generator=generator),
        attention_mask=(torch.arange(T) < 4 + lengths[:, None]).long(),
        action_mask=mask,
        action_log_probs=old * mask,
        rollout_log_probs=(old + 0.3 * torch.randn(B, T - 1, generator=generator)) * mask,
        advantages=torch.tensor([[1.0], [-0.4], [0.2], [-0.8]]).expand(
            B, T - 1
        ),  # in the prompt and beyond the end too
        rewards=torch.zeros(B),
        response_length=lengths,
        truncated=torch.zeros(B),
        total_length=(4 + lengths).float(),
        index=list(range(B)),
        info={"reward": torch.zeros(B)},
    )


@pytest.fixture(scope="module")
def started():
    """The worker's class, and how OpenRLHF's program gets its arguments: here, under the launcher."""
    return Probe, openrlhf_arguments


@pytest.fixture(scope="module")
def runs(cluster, model_path, started):
    """For ppo and then lad, in one worker process: what it is, what fit returned, each pass, and the last weights."""
    probe, arguments = started
    (worker,) = RayActorGroup(1, 1, ray.remote(num_gpus=1)(probe), num_gpus_per_actor=1)._actor_handlers
    results = {}
    for name, flags in {"ppo": PPO, "lad": (*LAD, "--actor.lad.eta", f"{ETA}")}.items():
        with pytest.MonkeyPatch.context() as patch:
            args = arguments(patch, *flags, *NO_KL, *TRAINING)
        args.actor.model_name_or_path = str(model_path)
        results[name] = SimpleNamespace(
            what=ray.get(worker.start.remote(args), timeout=200),
            trained=ray.get(worker.train.remote(make_experience()), timeout=100),
            weights=ray.get(worker.weights.remote(), timeout=60),
        )
    return results


def gradients(model_path, weights, loss_of):
    """The gradient of each weight, by autograd through the model at these weights; loss_of(log_probs, experience)."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    experience = make_experience()
    ids = experience.sequences
    logits = model(ids, attention_mask=experience.attention_mask).logits.float()
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    loss_of(log_probs, experience).backward()
    return {name: weight.grad.float() for name, weight in model.named_parameters()}


def lad_by_reference(log_probs, experience):
    mask = experience.action_mask
    old = experience.action_log_probs
    matrix = lad_loss_reference(log_probs, old, experience.advantages, mask, LADConfig(eta=ETA))
    weights = (old - experience.rollout_log_probs).exp()
    return aggregate_loss(matrix * weights * ((weights >= 0.5) & (weights <= 5.0)), mask)


def ppo_of_openrlhf(log_probs, experience):
    loss, *_ = PolicyLoss(is_correction_level="token")(
        log_probs, experience.action_log_probs, experience.advantages, experience.action_mask,
        experience.rollout_log_probs,
    )  # fmt: skip
    return loss


def distance(one, other):
    """Norm of the difference of two sets of gradients, by the norm of the second."""
    square = sum((one[name] - other[name]).square().sum() for name in other)
    return float((square / sum(x.square().sum() for x in other.values())).sqrt())


def test_the_worker_is_another_process_and_its_loss_is_lad(runs):
    what = runs["lad"].what
    assert what["pid"] != os.getpid()
    assert (what["trainer"], what["loss"]) == ("LADActorPPOTrainer", "LADPolicyLoss")
    assert what["settings"] == LADConfig(eta=ETA)


def test_without_lad_trainer_and_loss_are_openrlhfs(runs):
    what = runs["ppo"].what
    assert (what["trainer"], what["loss"]) == ("ActorPPOTrainer", "PolicyLoss")
    status, _ = runs["ppo"].trained
    assert not [name for name in status if name.startswith("lad/")]


@pytest.mark.parametrize("update", range(UPDATES))
@pytest.mark.parametrize(("name", "loss_of"), [("lad", lad_by_reference), ("ppo", ppo_of_openrlhf)])
def test_the_gradient_of_each_training_step_is_that_of_the_formula(name, loss_of, update, runs, model_path):
    """In bf16, and as a control the other loss's gradient is another."""
    _, passes = runs[name].trained
    assert len(passes) == UPDATES
    weights, computed = passes[update]["weights"], passes[update]["gradients"]
    expected = gradients(model_path, weights, loss_of)
    other = gradients(model_path, weights, ppo_of_openrlhf if name == "lad" else lad_by_reference)
    assert computed.keys() == expected.keys()
    assert distance(computed, expected) < 0.02
    assert distance(computed, other) > 0.1


def test_the_weights_change_at_each_update(runs):
    _, (first, second) = runs["lad"].trained
    last = runs["lad"].weights
    for before, after in ((first["weights"], second["weights"]), (second["weights"], last)):
        assert distance(after, before) > 1e-3
        assert all(weight.isfinite().all() for weight in after.values())


def test_fit_returns_the_diagnostics_of_the_objective_beside_openrlhfs_own(runs):
    lad, _ = runs["lad"].trained
    ppo, _ = runs["ppo"].trained
    assert set(lad) == set(ppo) | set(METRIC_NAMES)
    assert all(math.isfinite(lad[name]) for name in METRIC_NAMES)
    target_mass = (make_experience().advantages[:, 0] / ETA).exp().mean()
    assert lad["lad/target_mass"] == pytest.approx(float(target_mass), rel=1e-5)
    assert lad["lad/log_ratio_abs_max"] > 0.1
    assert lad["vllm_kl"] == pytest.approx(ppo["vllm_kl"])
    assert lad["is_filter_ratio"] == pytest.approx(ppo["is_filter_ratio"])


@pytest.mark.parametrize(("flags", "maker"), [(LAD, LADExperienceMaker), (PPO, RemoteExperienceMaker)])
@pytest.mark.parametrize("trainer", [actors.LADPPOTrainer, actors.LADTrainingActor])
def test_the_controllers_make_experience_by_lad_if_it_is_the_loss(
    trainer, flags, maker, parse, model_path, tmp_path, monkeypatch
):
    (tmp_path / "prompts.jsonl").write_text('{"input": "1+1=", "label": "2"}\n' * 4)
    data = ("--data.prompt_dataset", str(tmp_path / "prompts.jsonl"), "--train.batch_size", "4")
    args = parse(*flags, *NO_KL, *data)
    monkeypatch.setattr(ppo_trainer, "RemoteExperienceMaker", ppo_trainer.RemoteExperienceMaker)
    asynchronous = {"vllm_lock": None, "rollout_queue": None, "rollout_slots": None}
    groups = [None] * 5
    controller = trainer(
        str(model_path), get_strategy(args), *groups, **asynchronous if trainer is actors.LADTrainingActor else {}
    )
    assert type(controller.experience_maker) is maker


def test_the_asynchronous_controller_starts_our_training_actor(monkeypatch):
    class ReachedError(Exception):
        pass

    def parents(self, *args, **kwargs):
        raise ReachedError

    monkeypatch.setattr(ppo_trainer_async, "TrainingActor", ppo_trainer_async.TrainingActor)
    monkeypatch.setattr(actors._PPOTrainerAsync, "__init__", parents)
    with pytest.raises(ReachedError):
        actors.LADPPOTrainerAsync("model", None)
    assert actors.undecorated(ppo_trainer_async.TrainingActor) is actors.LADTrainingActor
