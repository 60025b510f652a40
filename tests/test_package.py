"""What is installed beside somebody's verl, who may import whom, and that the README says what is true."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from verl_lad import LADConfig
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES
from verl_lad.objective import DIAGNOSTICS
from verl_lad.objective.config import FIELD_NAMES

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *DOCS.glob("*.md"),
        *REPOSITORY.glob("recipes/**/*.md"),
        *REPOSITORY.glob("patches/*.md"),
    ]
)

MAY_IMPORT = {
    "objective": {"torch", "verl_lad.objective"},
    "adapters/verl": {
        "torch",
        "numpy",
        "verl",
        "hydra",
        "omegaconf",
        "ray",
        "packaging",
        "verl_lad.objective",
        "verl_lad.adapters.verl",
        "verl_lad.version",
    },
    "adapters/openrlhf": {
        "torch",
        "ray",
        "openrlhf",
        "verl_lad.objective",
        "verl_lad.adapters.openrlhf",
        "verl_lad.version",
    },
    "adapters/skyrl": {"torch", "ray", "skyrl", "verl_lad.objective", "verl_lad.adapters.skyrl"},
    "adapters/trinity": {"torch", "trinity", "verl_lad.objective", "verl_lad.adapters.trinity"},
    "adapters/trl": {"torch", "trl", "verl_lad.objective", "verl_lad.adapters.trl"},
    "cpu": {"torch", "verl", "vllm", "psutil", "verl_lad.cpu"},
    "bandit": {"torch", "matplotlib", "verl_lad.bandit", "verl_lad.objective", "verl_lad.version"},
    "evaluation": {
        "numpy",
        "matplotlib",
        "jinja2",
        "yaml",
        "tensorboard",
        "openai",
        "verl_lad.evaluation",
        "verl_lad.version",
    },
    "rewards": {"verl", "math_verify", "verl_lad.rewards"},
    "cli": {
        "rich",
        "verl_lad.adapters",
        "verl_lad.bandit",
        "verl_lad.evaluation",
        "verl_lad.rewards",
        "verl_lad.cli",
        "verl_lad.version",
    },
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", directory, REPOSITORY],
        check=True,
        timeout=120,
    )
    with zipfile.ZipFile(next(directory.glob("verl_lad-*.whl"))) as archive:
        yield archive


def test_the_wheel_carries_the_yaml_the_types_and_the_licence(wheel):
    names = wheel.namelist()
    assert "verl_lad/adapters/verl/lad.yaml" in names
    assert "verl_lad/evaluation/page.html.j2" in names
    assert "verl_lad/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sources = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "verl_lad").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_installing_it_can_move_nothing_but_requires_torch_and_numpy(wheel):
    (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert sorted(line for line in required if "extra ==" not in line) == ["numpy", "torch"]
    assert "Requires-Python: >=3.10" in metadata


def test_verl_and_the_shell_find_it(wheel):
    (entry_points,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "[verl.plugins]\nlad = verl_lad.adapters.verl.plugin" in entry_points
    assert "verl-lad = verl_lad.cli.main:main" in entry_points


def imported_by(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_no_layer_imports_upwards(layer):
    for path in (REPOSITORY / "verl_lad" / layer).rglob("*.py"):
        for name in imported_by(path):
            allowed = MAY_IMPORT[layer]
            below = any(name.startswith(f"{one}.") for one in allowed - {"verl_lad"})
            assert name in allowed or below, (path, name)


def test_every_adapter_is_a_layer_that_may_import_no_other_adapter():
    adapters = {path.parent.name for path in (REPOSITORY / "verl_lad" / "adapters").glob("*/__init__.py")}
    assert {f"adapters/{name}" for name in adapters} == {layer for layer in MAY_IMPORT if layer.startswith("adapters/")}
    for name in adapters:
        known = {one for one in MAY_IMPORT[f"adapters/{name}"] if one.startswith("verl_lad.adapters")}
        assert known == {f"verl_lad.adapters.{name}"}


def test_the_settings_page_names_every_key_with_its_default_and_every_metric():
    page, defaults = (DOCS / "settings.md").read_text(encoding="utf-8"), LADConfig()
    for name in FIELD_NAMES:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `algorithm.lad.{name}`"))
        default = row.split("|")[2].strip().strip("`")
        assert default == str(getattr(defaults, name)), row
    for name in METRIC_NAMES.values():
        assert f"| `{name}` |" in page


def test_the_python_page_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {
        "scores": torch.rand(4),
        "group_ids": torch.tensor([0, 0, 1, 1]),
        "log_prob": torch.randn(4, 3, requires_grad=True),
        "old_log_prob": torch.randn(4, 3),
        "response_mask": torch.ones(4, 3),
    }
    exec(block, names)
    names["loss_matrix"].sum().backward()
    assert names["log_prob"].grad.isfinite().all()
    assert set(names["metrics"]) == set(DIAGNOSTICS)


@pytest.mark.parametrize("command", ["make demo", "make test", "verl-lad doctor", "verl-lad report"])
def test_the_readme_names_the_commands(command):
    assert command in README


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_of_a_page_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
