"""Tests that test_patch.py runs in a process of its own, in which `import openrlhf` gives the patched copy.

Those of test_arguments.py and test_actors.py run here with OpenRLHF's own program and worker instead of the launcher's.
"""

import inspect
from functools import partial

import pytest
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.utils import get_strategy

from verl_lad.adapters.openrlhf.actors import undecorated
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker

from .conftest import openrlhf_arguments, program_arguments
from .probe import PatchedProbe
from .test_actors import (  # noqa: F401
    PPO,
    cluster,
    runs,
    test_fit_returns_the_diagnostics_of_the_objective_beside_openrlhfs_own,
    test_the_gradient_of_each_training_step_is_that_of_the_formula,
    test_the_weights_change_at_each_update,
    test_the_worker_is_another_process_and_its_loss_is_lad,
    test_without_lad_trainer_and_loss_are_openrlhfs,
)
from .test_arguments import (  # noqa: F401
    LAD,
    NO_KL,
    test_every_setting_reaches_the_arguments_that_openrlhf_sends_to_its_workers,
    test_not_warned_of,
    test_refused_by_name_before_ray_starts,
    test_the_defaults_are_the_objectives,
    test_warned_of,
    test_what_argparse_refuses_stays_refused,
)


@pytest.fixture
def parse(monkeypatch):
    """parse("--flag", ...): the arguments with which the patched program itself would start Ray."""
    return partial(program_arguments, monkeypatch)


@pytest.fixture(scope="module")
def started():
    return PatchedProbe, program_arguments


def test_this_is_the_patched_copy():
    assert "verl_lad" in inspect.getsource(ppo_trainer)


def test_the_launcher_refuses_it_with_the_way_out(monkeypatch):
    with pytest.raises(RuntimeError, match=r"by verl-lad's patch: .*python -m openrlhf\.cli\.train_ppo_ray"):
        openrlhf_arguments(monkeypatch)


@pytest.mark.parametrize(("flags", "maker"), [(LAD, LADExperienceMaker), (PPO, RemoteExperienceMaker)])
@pytest.mark.parametrize("actor", [ppo_trainer.PPOTrainer, ppo_trainer_async.TrainingActor])
def test_the_controllers_make_experience_by_lad_if_it_is_the_loss(actor, flags, maker, parse, model_path, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"input": "1+1=", "label": "2"}\n' * 4)
    args = parse(*flags, *NO_KL, "--data.prompt_dataset", str(tmp_path / "prompts.jsonl"), "--train.batch_size", "4")
    queues = {"vllm_lock": None, "rollout_queue": None, "rollout_slots": None}
    keywords = queues if actor is ppo_trainer_async.TrainingActor else {}
    controller = undecorated(actor)(str(model_path), get_strategy(args), *[None] * 5, **keywords)
    assert type(controller.experience_maker) is maker
