"""recipes/cpu_demo: what `make demo` says, from recorded lines, and with a stand-in for the script that trains.

measure.py: test_study.py. The real script: tests/e2e.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "recipes" / "cpu_demo" / "demo.py"
RECORDED = Path(__file__).parent / "demo_metrics.jsonl"
"""verl's file log of a run with the loss `lad`: the validation before training and three steps. Some of the metrics."""


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look here
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


def test_steps_are_read_without_validations_and_a_line_that_is_half_written(demo):
    text = RECORDED.read_text()
    steps = demo.logged_steps(text)
    assert [step for step, _ in steps] == [1, 2, 3]
    assert demo.logged_steps(text[:-10]) == steps[:2]
    assert demo.logged_steps("") == []


def test_the_progress_line_has_step_reward_divergence_seconds_and_time_left(demo):
    steps = demo.logged_steps(RECORDED.read_text())
    metrics = dict(steps)[3]
    reward, divergence = metrics["critic/score/mean"], metrics["actor/lad/divergence"]
    seconds = sorted(step["perf/time_per_step"] for _, step in steps)[1]
    left = 57 * seconds + 2 * (100 + 60 * seconds)
    line = demo.progress_line("lad", steps, total=60, launch_seconds=100, runs_after=2)
    assert " ".join(line.split()) == (
        f"lad step 3/60 reward {reward:.2f} divergence {divergence:+.2f} {seconds:.1f} s a step "
        f"about {left / 60:.0f} min left"
    )


def test_grpo_has_no_metric_of_the_loss_lad_and_its_progress_line_none(demo):
    steps = demo.logged_steps(RECORDED.read_text())
    assert len(demo.loss_metrics(steps[0][1])) > 5
    others = [(n, {k: v for k, v in metrics.items() if not k.startswith("actor/lad/")}) for n, metrics in steps]
    assert demo.loss_metrics(others[0][1]) == []
    assert "divergence" not in demo.progress_line("grpo", others, total=60, launch_seconds=100, runs_after=2)


def test_the_table_has_a_row_a_method(demo):
    exact = [
        {"step": 0, "accuracy": 0.4, "share": 1.0, "pass@16": 0.999},
        {"step": 60, "accuracy": 0.91, "share": 0.156, "pass@16": 1.0},
    ]
    head, row = demo.table([demo.Result("lad_anchored", exact, 1.52)])
    assert row.split() == ["lad_anchored", "0.40", "->", "0.91", "0.16", "1.00", "->", "1.00", "1.5"]
    starts = [match.start() for match in re.finditer(r"(?:^|(?<=  ))\S", head)]
    assert [row[start - 1 : start + 1].strip() for start in starts[1:]] == ["0", "0", "1", "1"], "under their heads"


# --- the whole program ------------------------------------------------------------------------------------------------

STAND_IN = """
set -eu
echo "$ALGO is running, seed ${SEED:-none}"
mkdir -p "$RUN_DIR"
if [[ $ALGO == grpo ]]; then
    "$PYTHON" - "$RECORDED" > "$RUN_DIR/metrics-1.jsonl" <<'END'
import json, sys
for line in open(sys.argv[1]):
    record = json.loads(line)
    data = {key: value for key, value in record["data"].items() if not key.startswith("actor/lad/")}
    print(json.dumps(record | {"data": data}))
END
else
    cp "$RECORDED" "$RUN_DIR/metrics-1.jsonl"
fi
printf '{"step": %s, "accuracy": 0.4, "share": 1.0, "pass@16": 1.0}\\n' 0 "$STEPS" > "$RUN_DIR/exact.jsonl"
"""
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import demo
demo.SCRIPT, demo.STEPS_A_LINE = sys.argv[2], 1
demo.main()
"""


def start(directory: Path, script: str, **variables: str) -> subprocess.Popen:
    stand_in = directory / "stand_in.sh"
    stand_in.write_text(script)
    settings = {"OUTPUT_DIR": str(directory / "out"), "RECORDED": str(RECORDED), "STEPS": "3", **variables}
    return subprocess.Popen(
        # as from a terminal, even where the tests run in the background and inherit signals that are ignored
        ["env", "--default-signal", sys.executable, "-c", PROGRAM, str(DEMO.parent), str(stand_in)],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process: subprocess.Popen) -> list[str]:
    return process.communicate(timeout=60)[0].splitlines()


def test_three_runs_end_in_a_table_and_a_figure_and_their_output_is_in_the_log(tmp_path):
    process = start(tmp_path, STAND_IN)
    lines = said(process)
    assert process.returncode == 0, lines
    assert len(lines) <= 60
    assert str(tmp_path / "out" / "demo.log") in lines[1]
    assert [line.split()[0] for line in lines if " -> " in line] == ["grpo", "lad", "lad_anchored"]
    assert sum("The workers use the policy loss `lad`" in line for line in lines) == 1
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    log = (tmp_path / "out" / "demo.log").read_text()
    assert [f"{algo} is running" in log for algo in ("grpo", "lad", "lad_anchored")] == [True] * 3


def test_a_run_that_fails_ends_the_demo_with_the_last_lines_of_the_log_and_its_name(tmp_path):
    process = start(tmp_path, "seq 100; exit 7")
    lines = said(process)
    assert process.returncode == 7
    assert lines[-41:-1] == [str(number) for number in range(61, 101)]
    assert "grpo ended with status 7" in lines[-1]
    assert str(tmp_path / "out" / "demo.log") in lines[-1]


def test_a_run_without_the_metrics_of_the_loss_is_not_taken_for_one_of_lad(tmp_path):
    process = start(tmp_path, STAND_IN.replace("$ALGO == grpo", "$ALGO == *"))
    lines = said(process)
    assert process.returncode == 1
    assert "lad did not train with the policy loss that was asked for" in lines[-1]


def wait_for(path: Path) -> str:
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.05)
    return path.read_text()


CHILD = """
trap 'sleep 1; touch "$OUTPUT_DIR/cleaned"; exit 130' INT
echo $$ > "$OUTPUT_DIR/pid"
while :; do sleep 0.1; done
"""
"""It takes its time to clean up, as verl_lad.cpu.run does."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_runs_and_waits_for_it(number, tmp_path):
    (tmp_path / "child.sh").write_text(CHILD)
    process = start(tmp_path, 'set -e\nbash "$CHILD"\necho "not reached"\n', CHILD=str(tmp_path / "child.sh"))
    pid = int(wait_for(tmp_path / "out" / "pid"))
    process.send_signal(number)
    lines = said(process)
    assert process.returncode == 130
    assert "Interrupted" in lines[-1]
    assert (tmp_path / "out" / "cleaned").exists()
    assert not psutil.pid_exists(pid)
    assert (tmp_path / "out" / "demo.log").read_text() == ""


WAITING = 'echo > "$OUTPUT_DIR/started"; while [[ ! -e $GO ]]; do sleep 0.1; done'


def test_two_demos_at_a_time_take_two_directories(tmp_path):
    first = start(tmp_path, WAITING, GO=str(tmp_path / "go"))
    wait_for(tmp_path / "out" / "started")
    (tmp_path / "second").mkdir()
    second = start(tmp_path / "second", STAND_IN, OUTPUT_DIR=str(tmp_path / "out"))
    lines = said(second)
    assert second.returncode == 0, lines
    assert str(tmp_path / f"out-{second.pid}" / "demo.log") in lines[1]
    (tmp_path / "go").touch()
    said(first)
