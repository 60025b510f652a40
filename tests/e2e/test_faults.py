"""What a user sees when a run goes wrong, and that it ends. In words: docs/verl.md. About 20 minutes, in `make long`.

Most of it is verl's own doing, and is pinned here as observed in verl 0.9.1. SIGKILL of the driver, and how that run is
resumed, is in test_verl_on_cpu.py; nodes without the plugin, or with another version of it, in test_nodes.py.
"""

import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from .demo import TIME_LIMIT, run_demo, start_demo
from .health import complaints, logged, training_steps

HERE = Path(__file__).parent
ENDS_WITHIN = 60
"""Seconds from the fault to the end of the run and of all that it started."""
SHORT = ("trainer.val_before_train=False", "trainer.test_freq=-1")

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(2 * TIME_LIMIT + 120)]


def reward(name: str) -> tuple[str, ...]:
    return (
        f"reward.custom_reward_function.path={HERE / 'bad_rewards.py'}",
        f"reward.custom_reward_function.name={name}",
    )


def wait_for_a_step(process: subprocess.Popen, run_dir: Path, log: Path) -> None:
    while not logged(run_dir):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def kill(process: subprocess.Popen, name: str) -> float:
    """SIGKILL to the one process whose name begins so; seconds until the run has ended."""
    children = psutil.Process(process.pid).children(recursive=True)
    (victim,) = (child for child in children if child.name().startswith(name))
    start = time.monotonic()
    victim.kill()
    process.wait()
    return time.monotonic() - start


def test_a_reward_function_that_throws_ends_the_run_after_its_traceback(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 2, *SHORT, *reward("throws"), N_GPUS="1")
    assert status == 1
    assert "KeyError: 'no such unit: parsec'" in log
    assert "RuntimeError: Sync replay buffer selected terminal groups with no materializable trajectories" in log
    assert training_steps(run_dir) == []


def test_an_infinite_reward_ends_the_run_and_names_the_response(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 2, *SHORT, *reward("infinite"), N_GPUS="1")
    assert status == 1
    assert re.search(r"ValueError: \d+ of 128 rewards are not finite; the first is inf for response \d+", log)
    assert training_steps(run_dir) == []


def test_with_all_responses_truncated_the_run_goes_on_and_its_metrics_show_it(tmp_path):
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 2, *SHORT, "data.max_response_length=2", N_GPUS="1")
    assert status == 0
    assert complaints(run_dir, log, steps=2, ranks=1) == []
    for _, metrics in training_steps(run_dir):
        assert metrics["response_length/clip_ratio"] == 1
        assert metrics["critic/score/mean"] == 0
        assert metrics["actor/lad/target_mass"] == 1, "every target is pi_old"
        assert metrics["actor/lad/weight_pos"] == metrics["actor/lad/weight_neg"] == 0, "no response has A > 0 or A < 0"
        # not GRPO's zero: the first update's gradient is rounding, an Adam without history makes a step of it, and the
        # second pulls back to pi_old
        assert metrics["actor/grad_norm"] > 0


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("ray::WorkerDict", ("ray.exceptions.ActorDiedError",)),
        # while it generates; while the trainer trains
        (
            "ray::vLLMHttpServer",
            (
                "RuntimeError: Sync replay buffer selected terminal groups",
                "ray.exceptions.RayTaskError(ActorDiedError)",
            ),
        ),
    ],
    ids=["rank", "server"],
)
def test_a_run_whose_rank_or_server_is_killed_ends(victim, said, tmp_path):
    run_dir, process, log = start_demo(tmp_path, "run", "lad", 1000, *SHORT, N_GPUS="1")
    wait_for_a_step(process, run_dir, log)
    assert kill(process, victim) < ENDS_WITHIN
    assert process.returncode == 1
    text = log.read_text(errors="replace")
    assert any(one in text for one in said)


def test_a_run_whose_vllm_engine_is_killed_ends_at_the_latest_at_its_time_limit(tmp_path):
    # verl's own: requests that come after the engine's death fail and end the run; for answers to those that were under
    # way the trainer waits for ever. Which of the two is a matter of milliseconds, and we have seen both.
    limit = 240
    run_dir, process, log = start_demo(tmp_path, "run", "lad", 1000, *SHORT, N_GPUS="1", TIME_LIMIT=str(limit))
    wait_for_a_step(process, run_dir, log)
    assert kill(process, "VLLM::Worker") < limit + ENDS_WITHIN
    text = log.read_text(errors="replace")
    if process.returncode == 1:
        assert "vllm.v1.engine.exceptions.EngineDeadError" in text
        assert "RuntimeError: Sync replay buffer selected terminal groups" in text
    else:
        assert process.returncode == 124
        assert "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)" in text
        assert f"verl_lad.cpu.run: stopping after the time limit of {limit} s" in text


def test_a_full_disk_ends_the_run_a_step_later(tmp_path):
    # verl dumps in the background and asks at the next dump how the one before went
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    (rollouts / "2.jsonl").symlink_to("/dev/full")
    overrides = (*SHORT, f"trainer.rollout_data_dir={rollouts}")
    run_dir, status, log = run_demo(tmp_path, "run", "lad", 3, *overrides, N_GPUS="1", SAVE_FREQ="1")
    assert status == 1
    assert "OSError: [Errno 28] No space left on device" in log
    assert [step for step, _ in training_steps(run_dir)] == [1, 2]
    assert (run_dir / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "3"


def test_a_checkpoint_of_another_algorithm_is_resumed_with_its_optimizer_under_the_new_loss(tmp_path):
    # verl's checkpoint does not say what made it: the loss is the one that the second start names
    variables = {"N_GPUS": "1", "SAVE_FREQ": "1", "RESUME_MODE": "auto"}
    run_dir, status, log = run_demo(tmp_path, "run", "grpo", 1, *SHORT, **variables)
    assert status == 0, log[-3000:]
    assert "actor/lad/divergence" not in dict(training_steps(run_dir))[1]
    _, status, log = run_demo(tmp_path, "run", "lad", 2, *SHORT, **variables)
    assert status == 0, log[-3000:]
    assert "actor/lad/divergence" in dict(training_steps(run_dir))[2]
    (optimizer,) = (run_dir / "checkpoints" / "global_step_2" / "actor").glob("optim_world_size_1_rank_0.pt")
    state = torch.load(optimizer, map_location="cpu", weights_only=False)["state"]
    assert {float(values["step"]) for values in state.values()} == {8.0}, "four updates of each"


def test_two_runs_at_once_on_one_host_do_not_meet(tmp_path):
    # each with weights of its own in its server: a socket of the other's would show as rollout KL
    runs = [start_demo(tmp_path / name, name, "lad", 2, *SHORT, N_GPUS="1", SEED=name) for name in ("0", "1")]
    for run_dir, process, log in runs:
        text = log.read_text(errors="replace") if process.wait() else ""
        assert process.returncode == 0, text[-3000:]
        assert complaints(run_dir, log.read_text(errors="replace"), steps=2, ranks=1) == []
