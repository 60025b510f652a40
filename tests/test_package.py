"""What is installed beside somebody's verl, who may import whom, and that the README says what is true."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import verl_lad
from verl_lad import LADConfig, objective
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES
from verl_lad.cli.main import make_parser
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
        "verl_lad.evaluation",
        "verl_lad.version",
    },
    "rewards": {"verl", "math_verify", "latex2sympy2_extended", "sympy", "verl_lad.rewards"},
    "cli": {
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


def test_the_readmes_quickstart_is_whole():
    (block,) = re.findall(r"## Quickstart.*?```bash\n(.*?)```", README, re.DOTALL)
    assert "..." not in block
    commands = [line.partition("  #")[0].split()[0] for line in block.splitlines()]
    assert commands == ["git", "python3", "pip", "verl-lad", "bash", "bash", "verl-lad"]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_of_a_page_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


# --- what the pages name exists ---------------------------------------------------------------------------------------

COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(make|verl-lad) (.+)")
"""Groups: the program of a line of code, and its arguments; variables and a folder may stand before it."""
FOLDERS = ("docs", "patches", "recipes", "tests", "verl_lad")
MAKE_TARGETS = set(re.findall(r"^([a-z0-9]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
FILE_NAMES = {path.name for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")}


def code_in(page: str) -> list[str]:
    """Return each line of the code blocks, and each piece of code within the text."""
    lines, text, fenced = [], [], False
    for line in page.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
        else:
            text.append(line)
    return lines + [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", "\n".join(text))]


def command_exists(program: str, arguments: str) -> bool:
    words = shlex.split(arguments, comments=True)
    if program == "make":
        return MAKE_TARGETS.issuperset(itertools.takewhile(lambda word: "=" not in word, words))
    try:
        make_parser().parse_args(words if len(words) > 1 else [*words, "--help"])
    except SystemExit as end:
        return end.code == 0
    return True


def name_exists(name: str) -> bool:
    """Whether verl_lad.a.b.Name is a module, or a word in the module of which the rest of it is the name."""
    path, parts = REPOSITORY, name.split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    source = path / f"{parts.pop(0)}.py" if parts and (path / f"{parts[0]}.py").exists() else path / "__init__.py"
    text = source.read_text(encoding="utf-8")
    return all(re.search(rf"\b{part}\b", text) for part in parts)


def missing_in(page: str) -> list[str]:
    """Return the commands, paths, scripts and Python names of a page that do not exist."""
    code = code_in(page)
    commands = [match for line in code if (match := COMMAND.match(line))]
    missing = [command[0] for command in commands if not command_exists(command[1], command[2])]
    for line in code:
        # X stands for any name
        paths = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*", line)
        missing += [path for path in paths if not any(REPOSITORY.glob(re.sub(r"\bX\b", "*", path)))]
        scripts = re.findall(r"(?<![\w./*-])(?!X\.)[\w-]+\.(?:sh|py)\b", line)
        missing += [script for script in scripts if script not in FILE_NAMES]
    return missing + [name for name in re.findall(r"\bverl_lad(?:\.\w+)+", page) if not name_exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_paths_and_names_of_a_page_exist(page):
    if page.name != "CHANGELOG.md":  # it names what was removed
        assert missing_in(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ("`make nothing`", ["make nothing"]),
        ("    make lint nothing", ["make lint nothing"]),
        ("`verl-lad nothing`", ["verl-lad nothing"]),
        ("```bash\n.venv/bin/verl-lad report runs --nothing 1\n```", [".venv/bin/verl-lad report runs --nothing 1"]),
        ("`ALGO=lad bash recipes/run_nothing.sh`", ["recipes/run_nothing.sh"]),
        ("`run_nothing.sh`", ["run_nothing.sh"]),
        ("`tests/nothing/test_it.py::test_it`", ["tests/nothing/test_it.py"]),
        ("`python -m verl_lad.nothing.run`", ["verl_lad.nothing.run"]),
        ("verl_lad.objective.no_such_name", ["verl_lad.objective.no_such_name"]),
    ],
)
def test_what_a_page_names_and_the_repository_lacks_is_found(page, missing):
    assert missing_in(page) == missing


def test_the_api_page_has_every_public_name():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: verl_lad\.objective\.(\w+)$", page, re.MULTILINE)) == set(objective.__all__)
    assert set(verl_lad.__all__) - {"__version__"} <= set(objective.__all__)
