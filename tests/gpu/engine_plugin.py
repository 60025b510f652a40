"""pytest plugin: tests/adapters/verl/test_engine_worker.py on one GPU, over NCCL, instead of on CPU.

Everything but the device is that test's own, above all the float64 reference. ENGINE_DTYPE=bf16 computes in bfloat16,
as verl trains, on three cases. LAD_TEST_DEVICE=cpu leaves the device alone: a trial of this file.
"""

import functools
import os
import subprocess

import pytest
import torch

ON_GPU = os.environ.get("LAD_TEST_DEVICE", "cuda") == "cuda"
DTYPE = os.environ.get("ENGINE_DTYPE", "fp32")
TOLERANCE = {"fp32": 2e-4, "bf16": 0.1}
"""Of the largest element of a parameter's gradient, against float64; bfloat16 keeps three digits."""
IN_BF16 = ("token, micro-batches of 4", "token, packed", "sequence, packed")
Popen = subprocess.Popen


def popen_on_gpu(command: list[str], *, env: dict[str, str], **arguments: object) -> subprocess.Popen:
    """Start the rank with verl's NVIDIA platform."""
    if ON_GPU:
        env = {k: v for k, v in env.items() if k not in ("VERL_ENGINE_DEVICE", "VERL_USE_EXTERNAL_MODULES")}
        env |= {"VERL_PLATFORM": "nvidia", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "RAY_LOCAL_WORLD_SIZE": "1"}
    return Popen(command, env=env, **arguments)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one rank, and prepare the module before its parameters are used."""
    from adapters.verl import engine_worker as worker
    from adapters.verl import test_engine_worker as test

    worker.OVERRIDES = tuple(
        override.replace("param_dtype:fp32", f"param_dtype:{DTYPE}")
        for override in worker.OVERRIDES
        if not ON_GPU or override != "trainer.device=cpu"
    )
    if ON_GPU and not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device here"))
    test.WORLD_SIZES = (1,)
    test.TIME_LIMIT = 300
    test.TOLERANCE = TOLERANCE[DTYPE]
    if ON_GPU:
        torch.load = functools.partial(torch.load, map_location="cpu")  # the worker saves what lies on the GPU
    test.subprocess = type("subprocess", (), {"Popen": staticmethod(popen_on_gpu), "STDOUT": subprocess.STDOUT})
    kept = [item for item in items if "2 ranks" not in item.nodeid]
    if DTYPE == "bf16":
        test.CASES[:] = [case for case in test.CASES if case.name in IN_BF16]
        test.UNSCALED.clear()
        kept = [item for item in kept if any(f"[{name}-" in item.nodeid for name in IN_BF16)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
