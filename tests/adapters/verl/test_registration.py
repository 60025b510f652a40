"""`lad` is there after `import verl`, however verl came to be imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import verl_lad

PACKAGE = Path(verl_lad.__file__).parent
TESTS = Path(__file__).parents[2]

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


RENAMED = {
    "a policy loss's": """
def vanilla(old_log_prob, log_prob, advantages, mask, loss_agg_mode="", config=None, rollout_is_weights=None): pass
def change(module): module.POLICY_LOSS_REGISTRY.update(dict.fromkeys(module.POLICY_LOSS_REGISTRY, vanilla))
""",
    "an estimator's": """
def grpo(rewards, mask, config=None, index=None): pass
def change(module): module.ADV_ESTIMATOR_REGISTRY.update(dict.fromkeys(module.ADV_ESTIMATOR_REGISTRY, grpo))
""",
    "agg_loss's": """
def agg_loss(loss_mat, mask, loss_agg_mode): pass
def change(module): module.agg_loss = agg_loss
""",
}


@pytest.mark.parametrize("renamed", RENAMED)
def test_a_verl_that_renamed_an_argument_is_refused_before_a_run_begins(renamed):
    code = f"""
from verl_lad.adapters.verl.after_import import after_import
{RENAMED[renamed]}
after_import("verl.trainer.ppo.core_algos", change)
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from adapters.verl.conftest import compose_verl
from omegaconf import OmegaConf
print("lad" in POLICY_LOSS_REGISTRY)
OmegaConf.resolve(compose_verl("ppo_trainer", ["algorithm.adv_estimator=grpo"]))
OmegaConf.resolve(compose_verl("ppo_trainer", ["algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "False\n"
    assert "verl-lad could not load in process" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "is not the one that verl-lad was written for" in last, done.stderr[-3000:]
    assert "mask" in last
    assert "verl-lad doctor" in last


FILES = [
    "objective/__init__.py",
    "objective/loss.py",
    *(f"adapters/verl/{path.name}" for path in sorted((PACKAGE / "adapters" / "verl").glob("*.*"))),
]
FILES.remove("adapters/verl/doctor.py")  # a command of its own
FILES.remove("adapters/verl/plugin.py")  # the one that speaks: the test after this one


@pytest.mark.parametrize("missing", FILES)
def test_an_installation_that_lacks_a_file_says_so_in_the_process_and_does_not_train(missing, tmp_path):
    done = train_without(missing, tmp_path)
    assert "verl-lad could not load in process" in done.stderr, done.stderr[-3000:]
    assert Path(missing).stem.removeprefix("__init__") in done.stderr


@pytest.mark.parametrize("missing", ["version.py", "adapters/verl/plugin.py"])
def test_an_installation_whose_plugin_cannot_be_imported_is_refused_by_hydra(missing, tmp_path):
    assert "Could not override 'algorithm.policy_loss'" in train_without(missing, tmp_path).stderr


def train_without(missing: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """What a driver does before it starts any worker, in a copy of the package that lacks a file."""
    copy = shutil.copytree(PACKAGE, tmp_path / "verl_lad", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / missing).unlink()
    code = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # it would find the file here
import verl
from omegaconf import OmegaConf
from adapters.verl.conftest import compose_verl
from verl.utils.config import omega_conf_to_dataclass
config = compose_verl("ppo_trainer", ["algorithm.policy_loss=lad", "algorithm.adv_estimator=lad",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"])
OmegaConf.resolve(config)
omega_conf_to_dataclass(config.actor_rollout_ref.actor)
print("would train")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS), *filter(None, sys.path)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, (done.stdout, done.stderr[-2000:])
    assert "would train" not in done.stdout
    return done
