"""The tests of this folder run on one CUDA device, and are skipped where there is none.

`make gpu` runs them all. LAD_TEST_DEVICE=cpu runs them on a CPU, as a trial of the tests themselves.
"""

import os

import pytest
import torch

DEVICE = os.environ.get("LAD_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device here"))


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE)
