"""How the benchmarks measure: times side by side, memory by the allocator's own record, and where results go."""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(os.environ.get("RESULTS", Path(__file__).parent / "results"))
PACKAGES = ("verl-lad", "verl", "torch", "liger-kernel")


def interleaved_seconds(
    contenders: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, one after the other, so that what disturbs one disturbs all.

    CPU time by default, so that other processes count only through the caches. One round before is not counted.
    Python's garbage collector waits meanwhile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for round_ in range(rounds + 1):
            for name, run in contenders.items():
                start = clock()
                run()
                if round_:
                    seconds[name].append(clock() - start)
    finally:
        gc.enable()
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the quartiles, which say how far it can be trusted."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "low": low, "high": high}


def ratios(seconds: Mapping[str, Sequence[float]], ours: str, inverse: bool = False) -> dict[str, dict[str, float]]:
    """The spread of ours / theirs, or of theirs / ours, over the rounds, each ratio taken within one round."""
    sign = -1 if inverse else 1
    return {
        name: spread([(mine / other) ** sign for mine, other in zip(seconds[ours], theirs, strict=True)])
        for name, theirs in seconds.items()
        if name != ours
    }


def peak_bytes(run: Callable[[], object], warm_up: bool = True) -> int:
    """The most that was allocated at one time while `run` ran, beyond what was there before.

    From the record that torch's allocator keeps under the profiler, so the number is the same in every run: all
    tensors, also temporary ones inside an operator and those of the backward thread; not what BLAS and Python keep
    for themselves.
    """
    if warm_up:
        run()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as record:
        run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def cuda_clock() -> float:
    """Wall-clock seconds, read when the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def cuda_peak_bytes(run: Callable[[], object]) -> int:
    """Measure what `peak_bytes` does, on a GPU, for a `run` that is compiled and has cuBLAS's workspaces in place."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": f"{model}, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": versions,
        "load_average_1_min": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def write_results(name: str, results: object, output: Path | None = None) -> None:
    """Writes results/<name>.json, or `output` if given, with the machine."""
    output = output or RESULTS / f"{name}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ratio_text(ratio: Mapping[str, float]) -> str:
    """0.41 (0.39-0.44)."""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
