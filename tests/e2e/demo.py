"""recipes/run_cpu_demo.sh, started by a test."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
TIME_LIMIT = 420
"""Of a run, in seconds."""


def start_demo(output_dir: Path, name: str, algo: str, steps: int, *overrides: str, **more: str):
    """Starts recipes/run_cpu_demo.sh; returns the run's directory, the process and where its output goes."""
    run_dir = output_dir / "runs" / name
    variables = {
        "ALGO": algo,
        "STEPS": str(steps),
        "TEST_FREQ": str(steps),
        "VAL_SAMPLES": "8",
        "OUTPUT_DIR": str(output_dir),
        "RUN_DIR": str(run_dir),
        "TIME_LIMIT": str(TIME_LIMIT),
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")])),
        **more,
    }
    command = ["bash", str(REPOSITORY / "recipes" / "run_cpu_demo.sh"), *overrides]
    output_dir.mkdir(exist_ok=True)
    log = output_dir / f"{name}.log"
    with log.open("a") as stream:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=stream, stderr=subprocess.STDOUT)
    return run_dir, process, log


def run_demo(output_dir: Path, name: str, algo: str, steps: int, *overrides: str, **more: str):
    """Runs recipes/run_cpu_demo.sh; returns the run's directory, exit status and output."""
    run_dir, process, log = start_demo(output_dir, name, algo, steps, *overrides, **more)
    status = process.wait()
    return run_dir, status, log.read_text(errors="replace")


def traces() -> set[str]:
    """What runs leave behind if they do: directories, shared memory, processes of Ray and vLLM."""
    names = (process.info["name"] for process in psutil.process_iter(["name"]))
    processes = {f"process {name}" for name in names if name.startswith(("ray::", "raylet", "gcs_server", "VLLM::"))}
    return (
        {str(path) for pattern in ("verl-lad-*", "vllm_*") for path in Path("/tmp").glob(pattern)}
        | {str(path) for path in Path("/dev/shm").iterdir()}
        | processes
    )


def trainer_of(process: subprocess.Popen) -> psutil.Process:
    """The driver of a run: `python -m verl.trainer.main_ppo`."""
    (trainer,) = (
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline()[1:3] == ["-m", "verl.trainer.main_ppo"]
    )
    return trainer
