"""Trainings that start fast: accelerate collects garbage before each, and everything imported is not garbage."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _nothing_imported_is_looked_at_for_garbage() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()
