"""`lad` is there after `import verl`, however verl came to be imported."""

import subprocess
import sys

import pytest

FIRST = ["verl", *(f"verl_lad.adapters.verl.{module}" for module in ("plugin", "settings", "policy_loss"))]
FOUND = """
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl_lad.adapters.verl import plugin
assert plugin.load_error is None, plugin.load_error
print(get_policy_loss_fn("lad").__name__, get_adv_estimator_fn("lad").__name__)
"""


@pytest.mark.parametrize("first", FIRST)
def test_it_is_registered_whichever_module_a_process_imports_first(first):
    result = subprocess.run(
        [sys.executable, "-c", f"import {first}{FOUND}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.split() == ["compute_policy_loss_lad", "compute_lad_outcome_advantage"], result.stderr[-2000:]
    assert "could not load" not in result.stderr


def test_a_verl_with_a_lad_of_its_own_keeps_it_and_the_process_says_so():
    code = """
from verl_lad.adapters.verl.after_import import after_import
def native(): pass
after_import("verl.trainer.ppo.core_algos", lambda module: module.POLICY_LOSS_REGISTRY.update(lad=native))
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl_lad.adapters.verl import plugin
print(get_policy_loss_fn("lad").__name__, plugin.load_error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.startswith("native RuntimeError: __main__.native is already registered"), result.stderr[-2000:]
    assert "could not load" in result.stderr
