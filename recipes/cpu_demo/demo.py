"""Train one base model in verl's own trainer with GRPO, LAD and anchored LAD, and compare them. `make demo` runs this.

Each run is ../run_cpu_demo.sh, to which the environment goes (SEED, STEPS, N_GPUS, ...). The terminal gets a line now
and then, a table at the end and the name of a figure. All that verl says goes to a log file. A demo that starts while
another one runs takes a directory of its own.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

SCRIPT = Path(__file__).resolve().parents[1] / "run_cpu_demo.sh"
ALGOS = ("grpo", "lad", "lad_anchored")
LOSS_METRICS = "actor/lad/"
"""Beginning of the metrics that only the policy loss `lad` writes."""
STEPS_A_LINE = 10
LOG_LINES = 40
"""Last lines of the log that are shown when a run fails."""

Step = tuple[int, dict[str, float]]
"""A training step's number and verl's metrics."""


def logged_steps(text: str) -> list[Step]:
    """Return the training steps in the text of verl's file logger. A last line that is half written does not count."""
    records = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return [(record["step"], record["data"]) for record in records if "actor/grad_norm" in record["data"]]


def read_steps(run_dir: Path) -> list[Step]:
    """Return the training steps that a run has logged so far."""
    return [step for file in sorted(run_dir.glob("metrics-*.jsonl")) for step in logged_steps(file.read_text())]


def seconds_a_step(steps: list[Step]) -> float:
    """Return the median, which the first step and those with a checkpoint do not move."""
    return median(metrics["perf/time_per_step"] for _, metrics in steps)


def loss_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics that only the policy loss `lad` writes."""
    return [name for name in metrics if name.startswith(LOSS_METRICS)]


def progress_line(algo: str, steps: list[Step], total: int, launch_seconds: float, runs_after: int) -> str:
    """Return the line for the newest step.

    Args:
        algo: the run.
        steps: its steps so far, at least one.
        total: steps of a run.
        launch_seconds: time from a run's start to its first step.
        runs_after: runs that come after this one.
    """
    step, metrics = steps[-1]
    seconds = seconds_a_step(steps)
    left = (total - step) * seconds + runs_after * (launch_seconds + total * seconds)
    divergence = metrics.get(LOSS_METRICS + "divergence")
    lad = "" if divergence is None else f"divergence {divergence:+.2f}   "
    reward = metrics["critic/score/mean"]
    return (
        f"  {algo:<13} step {step:>3}/{total}   reward {reward:.2f}   {lad}"
        f"{seconds:.1f} s a step   about {left / 60:.0f} min left"
    )


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        algo: the method.
        exact: the base's measures and those of each checkpoint, as measure.py wrote them.
        seconds: seconds a step.
    """

    algo: str
    exact: list[dict[str, float]]
    seconds: float


def table(results: list[Result]) -> list[str]:
    """Return the lines of the table that compares the runs at their ends."""
    lines = ["method          accuracy       solutions kept   pass@16        seconds a step"]
    for result in results:
        before, after = result.exact[0], result.exact[-1]
        accuracy, passed = (f"{before[key]:.2f} -> {after[key]:.2f}" for key in ("accuracy", "pass@16"))
        lines.append(f"{result.algo:<15} {accuracy:<14} {after['share']:<16.2f} {passed:<14} {result.seconds:.1f}")
    return lines


def draw(results: list[Result], path: Path) -> None:
    """Draw accuracy against the share of solutions kept: a curve a method, a point a checkpoint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for result in results:
        points = [[line[key] for line in result.exact] for key in ("accuracy", "share")]
        axes.plot(*points, marker="o", markersize=3.5, label=result.algo)
    axes.set(xlabel="accuracy", ylabel="share of the base's solutions kept", ylim=(0, 1.1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def start(algo: str, output: Path, steps: int, log: IO[str]) -> subprocess.Popen:
    """Start a run in a session of its own, so that a terminal's Ctrl-C reaches this process alone."""
    places = {"OUTPUT_DIR": str(output), "RUN_DIR": str(output / "runs" / algo)}
    environment = os.environ | places | {"ALGO": algo, "STEPS": str(steps), "PYTHON": sys.executable}
    return subprocess.Popen(
        ["bash", SCRIPT], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def follow(process: subprocess.Popen, algo: str, run_dir: Path, total: int) -> int:
    """Print a run's progress to its end, and return its exit status. If interrupted, end the run first."""
    began, launch_seconds, shown = time.monotonic(), 0.0, 0
    runs_after = len(ALGOS) - 1 - ALGOS.index(algo)
    try:
        while True:
            status = process.poll()
            steps = read_steps(run_dir)
            if steps and not launch_seconds:
                launch_seconds = time.monotonic() - began
                count = len(loss_metrics(steps[0][1]))
                if algo == "lad" and count:
                    print(f"  The workers use the policy loss `lad`: it alone writes {count} of their metrics.")
                    print("  Divergence: by how much the updates of a step change the distance to LAD's target.")
            if steps and steps[-1][0] // STEPS_A_LINE > shown:
                shown = steps[-1][0] // STEPS_A_LINE
                print(progress_line(algo, steps, total, launch_seconds, runs_after), flush=True)
            if status is not None:
                return status
            time.sleep(1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # the script waits for verl_lad.cpu.run, which cleans up
            process.wait()


def run(algo: str, output: Path, total: int, log_path: Path) -> Result:
    """Do one run from start to end.

    Raises:
        SystemExit: if the run failed, after the end of its log.
    """
    run_dir = output / "runs" / algo
    shutil.rmtree(run_dir, ignore_errors=True)  # an earlier demo's
    print(f"{algo}: starting Ray and vLLM, which takes about two minutes", flush=True)
    with log_path.open("a") as log:
        status = follow(start(algo, output, total, log), algo, run_dir, total)
    steps = read_steps(run_dir) if status == 0 else []
    if not steps or bool(loss_metrics(steps[-1][1])) != algo.startswith("lad"):
        print(*log_path.read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n")
        why = f"ended with status {status}" if status else "did not train with the policy loss that was asked for"
        print(f"{algo} {why}. Above: the end of {log_path}")
        raise SystemExit(status or 1)
    exact = [json.loads(line) for line in (run_dir / "exact.jsonl").read_text().splitlines()]
    return Result(algo, exact, seconds_a_step(steps))


def claim_directory(wanted: Path) -> Path:
    """Return a directory that no other demo uses while this process lives: `wanted`, or one named after the process."""
    wanted.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(wanted / "demo.lock", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        wanted = wanted.with_name(f"{wanted.name}-{os.getpid()}")
        wanted.mkdir()
    return wanted


def interrupt(*_: Any) -> None:
    """Treat a signal as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the demo."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets SIGHUP
            signal.signal(number, interrupt)
    began = time.monotonic()
    total = int(os.environ.get("STEPS", "25"))
    output = claim_directory(Path(os.environ.get("OUTPUT_DIR", "outputs/demo")).resolve())
    log_path = output / "demo.log"
    log_path.write_text("")
    print("Three methods train one small model in verl's own trainer: name three digits with a given sum.")
    print(f"All that verl says goes to {log_path}", flush=True)
    try:
        results = [run(algo, output, total, log_path) for algo in ALGOS]
    except KeyboardInterrupt:
        print(f"Interrupted. The run was ended. Log: {log_path}")
        raise SystemExit(130) from None
    figure = output / "demo.png"
    draw(results, figure)
    print("", *table(results), "", sep="\n")
    print("Solutions kept: effective number of distinct right answers, as a share of the base model's.")
    print(f"Figure: {figure}. It took {(time.monotonic() - began) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
