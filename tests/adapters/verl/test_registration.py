"""`lad` is there after `import verl`, however verl came to be imported."""

import ast
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import verl_lad

PACKAGE = Path(verl_lad.__file__).parent
TESTS = Path(__file__).parents[2]
TIME_LIMIT = 280
"""Seconds for a process that imports verl: a net, not an expectation."""

PRELOADED = ["torch", "transformers", "ray", "tensordict", "hydra", "pandas"]
"""Modules that verl imports, and that take most of the time of `import verl`; the tests' processes begin with them."""

FIRST = ["verl", *(f"verl_lad.adapters.verl.{module}" for module in ("plugin", "settings", "policy_loss"))]
FOUND = """
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
import verl_lad.adapters.verl as adapter
assert adapter.load_error is None, adapter.load_error
print(get_policy_loss_fn("lad").__name__, get_adv_estimator_fn("lad").__name__)
"""


@pytest.mark.parametrize("first", FIRST)
def test_it_is_registered_whichever_module_a_process_imports_first(first):
    result = run_python(f"import {first}{FOUND}")
    assert result.stdout.split() == ["compute_policy_loss_lad", "compute_lad_outcome_advantage"], result.stderr[-2000:]
    assert "could not load" not in result.stderr


REGISTRIES = "verl.trainer.ppo.core_algos"


def run_python(code: str, *path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a process that has PRELOADED, and neither verl nor verl_lad; `path` goes in front of sys.path."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    environment = {**os.environ, **variables}
    with tempfile.TemporaryDirectory() as directory:
        outputs = [Path(directory, name) for name in ("stdout", "stderr")]
        begin = f"""
import os, sys
for number, output in enumerate({[*map(str, outputs)]}, start=1):
    os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), number)
os.environ.clear()
os.environ.update({environment})
sys.path[:0] = {[*map(str, path)]}
assert not {{"verl", "verl_lad"}} & set(sys.modules)
"""
        process = context.Process(target=exec, args=(begin + code, {}))
        process.start()
        process.join(TIME_LIMIT)
        ended = not process.is_alive()
        process.kill()
        process.join()
        assert ended, f"not at its end after {TIME_LIMIT} s: {outputs[1].read_text()[-2000:]}"
        return subprocess.CompletedProcess(code, process.exitcode, *(output.read_text() for output in outputs))


@pytest.mark.parametrize(
    "statement",
    [
        f"import {REGISTRIES} as core_algos",
        "from verl.trainer.ppo import core_algos",
        f"import importlib; core_algos = importlib.import_module({REGISTRIES!r})",
        f"import verl; import {REGISTRIES} as core_algos",
        f"from verl.workers.utils import losses; import sys; core_algos = sys.modules[{REGISTRIES!r}]",
        f"import pickle, verl; core_algos = pickle.loads(b'c{REGISTRIES}\\nagg_loss\\n.').__globals__; "
        "import types; core_algos = types.SimpleNamespace(**core_algos)",
    ],
)
def test_whoever_has_the_registries_finds_lad_in_them(statement):
    done = run_python(
        f"{statement}; print('lad' in core_algos.POLICY_LOSS_REGISTRY, 'lad' in core_algos.ADV_ESTIMATOR_REGISTRY)"
    )
    assert done.stdout.split() == ["True", "True"], done.stderr[-2000:]


def test_no_module_of_the_adapter_imports_itself_by_way_of_others():
    """Imports within functions included."""
    package = "verl_lad.adapters.verl"
    directory = PACKAGE / "adapters" / "verl"
    imports = {}
    for path in directory.glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == package:
                names |= {alias.name for alias in node.names if (directory / f"{alias.name}.py").exists()}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                names.add(node.module.removeprefix(f"{package}."))
        imports[path.stem] = names - {path.stem}  # cluster.py names itself to have Ray send it by value
    assert imports["plugin"]
    while imports:
        leaves = {name for name, names in imports.items() if not names & set(imports)}
        assert leaves, imports
        imports = {name: names for name, names in imports.items() if name not in leaves}


def run_with_changed_registries(change: str, tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a process where `change` was executed on verl's registries before verl loads its plugins."""
    (tmp_path / "changes_verl.py").write_text(f"from verl.trainer.ppo import core_algos\n{change}")
    return run_python(code, tmp_path, TESTS, VERL_USE_EXTERNAL_MODULES="changes_verl")


def test_a_verl_with_a_lad_of_its_own_keeps_it_and_the_process_says_so(tmp_path):
    change = """
def native(): pass
core_algos.POLICY_LOSS_REGISTRY.update(lad=native)
"""
    code = """
from verl.trainer.ppo.core_algos import get_policy_loss_fn
import verl_lad.adapters.verl as adapter
print(get_policy_loss_fn("lad").__name__, adapter.load_error)
"""
    done = run_with_changed_registries(change, tmp_path, code)
    expected = "native RuntimeError: changes_verl.native is already registered"
    assert done.stdout.startswith(expected), done.stderr[-2000:]
    assert "could not load" in done.stderr


RENAMED = {
    "a policy loss's": """
def vanilla(old_log_prob, log_prob, advantages, mask, loss_agg_mode="", config=None, rollout_is_weights=None): pass
core_algos.POLICY_LOSS_REGISTRY.update(dict.fromkeys(core_algos.POLICY_LOSS_REGISTRY, vanilla))
""",
    "an estimator's": """
def grpo(rewards, mask, config=None, index=None): pass
core_algos.ADV_ESTIMATOR_REGISTRY.update(dict.fromkeys(core_algos.ADV_ESTIMATOR_REGISTRY, grpo))
""",
    "agg_loss's": """
def agg_loss(loss_mat, mask, loss_agg_mode): pass
core_algos.agg_loss = agg_loss
""",
}


@pytest.mark.parametrize("renamed", RENAMED)
def test_a_verl_that_renamed_an_argument_is_refused_before_a_run_begins(renamed, tmp_path):
    code = """
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from adapters.verl.conftest import compose_verl
from omegaconf import OmegaConf
print("lad" in POLICY_LOSS_REGISTRY)
OmegaConf.resolve(compose_verl("ppo_trainer", ["algorithm.adv_estimator=grpo"]))
OmegaConf.resolve(compose_verl("ppo_trainer", ["algorithm.policy_loss=lad", "algorithm.adv_estimator=grpo"]))
"""
    done = run_with_changed_registries(RENAMED[renamed], tmp_path, code)
    assert done.returncode == 1
    assert done.stdout == "False\n"
    assert "verl-lad could not load in process" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "is not the one that verl-lad was written for" in last, done.stderr[-3000:]
    assert "mask" in last
    assert "verl-lad doctor" in last


def test_an_error_of_the_registration_is_loud_and_kept_for_the_doctor():
    code = f"""
import sys
sys.modules["verl_lad.adapters.verl.settings"] = None
import verl
import {REGISTRIES} as core_algos
import verl_lad.adapters.verl as adapter
print("lad" in core_algos.POLICY_LOSS_REGISTRY, "lad" in core_algos.ADV_ESTIMATOR_REGISTRY)
print(adapter.load_error)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("False False\n")
    assert "settings" in done.stdout
    assert "verl-lad could not load" in done.stderr
    assert "verl-lad doctor" in done.stderr


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
    done = run_python(code, tmp_path, TESTS)
    assert done.returncode == 1, (done.stdout, done.stderr[-2000:])
    assert "would train" not in done.stdout
    return done
