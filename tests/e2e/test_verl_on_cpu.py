"""verl's own trainer, Ray, two FSDP2 ranks and vLLM, with LAD, by the demo's script. Minutes."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import torch

from verl_lad.evaluation import load_runs

from .demo import TIME_LIMIT, run_demo, start_demo, traces, trainer_of
from .health import MAX_ROLLOUT_KL, complaints, logged, training_steps

RANKS = 2
NO_VALIDATION = ("trainer.val_before_train=False", "trainer.test_freq=-1")
SAMPLES = 8 * 16
"""Responses a step."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(TIME_LIMIT + 60)]


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def resumable(output_dir: Path, name: str) -> tuple[str, ...]:
    """Overrides of a run whose every step can be compared with another's."""
    return (
        f"trainer.rollout_data_dir={output_dir / name}",  # what was asked and answered at each step
        "actor_rollout_ref.actor.optim.lr_warmup_steps=10",  # a learning rate that tells the steps apart
    )


@pytest.fixture(scope="module")
def lad_run(output_dir):
    """A run of 3 steps, a checkpoint after each; with what it left behind on the machine."""
    before = traces()
    variables = {"SAVE_FREQ": "1", "N_GPUS": str(RANKS)}
    run = run_demo(output_dir, "lad", "lad", 3, *resumable(output_dir, "lad-rollouts"), **variables)
    return *run, traces() - before


def test_lad_trains_in_verls_own_trainer_in_every_worker_and_leaves_nothing_behind(output_dir, lad_run):
    run_dir, status, log, left = lad_run
    assert status == 0, log[-3000:]
    assert complaints(run_dir, log, steps=3, ranks=RANKS) == []
    (run,) = load_runs([run_dir])
    assert list(run.validations) == [0, 3]
    for step in run.validations:  # each prompt is a problem, by verl's uid
        assert [problem.total for problem in run.problems("validation", step).values()] == [8] * 8
    assert run.problems("validation", 0).keys() == run.problems("validation", 3).keys()
    assert run.remarks == []
    assert left == set()


def test_the_report_of_the_run_has_a_row_for_the_base_and_one_for_the_end(output_dir, lad_run):
    report, figure = output_dir / "report", output_dir / "report.png"
    program = (sys.executable, "-m", "verl_lad.cli.main", "report")
    done = subprocess.run(
        [*program, str(lad_run[0]), "--output", str(report), "--figure", str(figure)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^lad +0 \(base\) ", done.stdout, re.MULTILINE)
    assert re.search(r"^lad +3 ", done.stdout, re.MULTILINE)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (report / "report.html").read_text()


def test_the_checkpoints_of_two_ranks_are_measured_exactly(output_dir, lad_run):
    base = json.loads((output_dir / "base-seed0" / "base.json").read_text())
    exact = [json.loads(line) for line in (lad_run[0] / "exact.jsonl").read_text().splitlines()]
    assert [line["step"] for line in exact] == [0, 1, 2, 3]
    assert exact[0]["accuracy"] == pytest.approx(fmean(base["accuracy"]))
    assert exact[0]["share"] == 1
    accuracy = [line["accuracy"] for line in exact]
    assert accuracy[1] == pytest.approx(accuracy[0]), "the warm-up's first learning rate is 0"
    assert len(set(accuracy[1:])) == 3
    for before, (_, metrics) in zip(exact[:3], training_steps(lad_run[0]), strict=True):
        p = before["accuracy"]  # of the policy that the step's samples are from
        assert abs(metrics["critic/score/mean"] - p) < 4 * math.sqrt(p * (1 - p) / SAMPLES), "four standard errors"


def questions(output_dir: Path, name: str, step: int) -> Counter[str]:
    lines = (output_dir / name / f"{step}.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["input"] for line in lines)


def updates_of(run_dir: Path, step: int) -> set[float]:
    """How many updates Adam counts in a checkpoint."""
    file = run_dir / "checkpoints" / f"global_step_{step}" / "actor" / f"optim_world_size_{RANKS}_rank_0.pt"
    state = torch.load(file, map_location="cpu", weights_only=False)["state"]
    return {float(values["step"]) for values in state.values()}


@pytest.mark.long
@pytest.mark.timeout(2 * TIME_LIMIT + 60)  # two launches
def test_a_run_killed_between_two_steps_and_resumed_goes_on_as_one_never_killed(output_dir, lad_run):
    """Equal exactly: data, learning rate, updates, the weights of trainer and server. Samples differ by chance."""
    overrides = resumable(output_dir, "killed-rollouts")
    variables = {"SAVE_FREQ": "1", "RESUME_MODE": "auto", "N_GPUS": str(RANKS)}
    run_dir, process, log = start_demo(output_dir, "killed", "lad", 3, *overrides, **variables)
    saved = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    # verl logs a step after it has saved it: killed between the two, that step's metrics would be missing
    while not (saved.exists() and logged(run_dir)):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)
    trainer_of(process).kill()
    assert process.wait() == 128 + signal.SIGKILL

    resumed_at = int(saved.read_text())
    assert resumed_at < 3
    _, status, text = run_demo(output_dir, "killed", "lad", 3, *overrides, **variables)
    assert status == 0, text[-3000:]
    steps, uninterrupted = dict(training_steps(run_dir)), dict(training_steps(lad_run[0]))
    assert list(steps) == list(uninterrupted) == [1, 2, 3]
    for step in (1, 2, 3):
        assert questions(output_dir, "killed-rollouts", step) == questions(output_dir, "lad-rollouts", step)
        assert steps[step]["actor/lr"] == uninterrupted[step]["actor/lr"]
        assert abs(steps[step]["rollout_corr/kl"]) < MAX_ROLLOUT_KL
        scores = [run[step]["critic/score/mean"] for run in (steps, uninterrupted)]
        p = sum(scores) / 2
        assert abs(scores[0] - scores[1]) < 4 * math.sqrt(2 * p * (1 - p) / SAMPLES), "four standard errors"
    assert updates_of(run_dir, 3) == updates_of(lad_run[0], 3) == {12.0}
    (run,) = load_runs([run_dir])
    assert set(run.validations) == {0, resumed_at, 3}


@pytest.mark.long
def test_a_run_without_our_loss_or_weight_sync_fails_the_same_checks(output_dir):
    """The negative control: the checks above would notice."""
    run_dir, _, log = run_demo(
        output_dir,
        "control",
        "grpo",
        2,
        *NO_VALIDATION,
        "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=e2e.dropped_sync.DroppedSyncExtension",
        N_GPUS="1",
    )
    found = complaints(run_dir, log, steps=2, ranks=1)
    assert "step 1: metric actor/lad/divergence is missing" in found
    assert "0 workers used the registered loss, not 1" in found
    assert any(complaint.startswith("step 2: rollout KL is") for complaint in found)
    assert not any(complaint.startswith("step 1: rollout KL is") for complaint in found)
    assert not any("training steps" in complaint for complaint in found)
