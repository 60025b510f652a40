"""What is built, what installing it does, and that nothing here runs code or reaches out behind anybody's back."""

import ast
import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("verl_lad", "recipes") for path in (REPOSITORY / folder).rglob("*.py"))

# --- the archives -----------------------------------------------------------------------------------------------------

BUILT_FROM = ["verl_lad", "pyproject.toml", "README.md", "LICENSE", ".gitignore"]
DIST_INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def copy_of_the_sources(directory: Path, umask: int, time: int) -> Path:
    """As another person's checkout would be: other modes, other times, and the repository's tests and recipes too."""
    for name in [*BUILT_FROM, "tests/test_package.py", "recipes/study/tasks.py"]:
        source, target = REPOSITORY / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for path in [directory, *directory.rglob("*")]:
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
            os.utime(path, (time, time))
    return directory


def build(sources: Path, umask: int) -> dict[str, Path]:
    """What `make dist` runs. The archives by their suffix."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation"],
        cwd=sources,
        umask=umask,
        check=True,
        timeout=240,
        capture_output=True,
    )
    archives = {path.suffix: path for path in (sources / "dist").iterdir()}
    assert set(archives) == {".gz", ".whl"}
    return archives


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    sources = copy_of_the_sources(tmp_path_factory.mktemp("one"), umask=0o022, time=1_700_000_000)
    return build(sources, umask=0o022)


def test_sdist_and_wheel_have_the_same_sha256_whoever_builds_them_wherever_and_whenever(archives, tmp_path):
    sources = copy_of_the_sources(tmp_path / "another" / "place", umask=0o077, time=1_000_000_001)
    # what an older build may have left: it is in neither
    leftover = sources / "build" / "lib" / "verl_lad" / "removed.py"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("an_older_version = True\n", encoding="utf-8")
    again = build(sources, umask=0o077)
    for suffix, archive in archives.items():
        assert again[suffix].name == archive.name
        first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (archive, again[suffix]))
        assert first == second, suffix


def package_files() -> set[str]:
    """Return the path of every file of the package, relative to the repository."""
    paths = (path for path in (REPOSITORY / "verl_lad").rglob("*") if path.is_file())
    return {path.relative_to(REPOSITORY).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(archives):
    with zipfile.ZipFile(archives[".whl"]) as wheel:
        names = wheel.namelist()
    metadata = {name.split(".dist-info/")[1] for name in names if ".dist-info/" in name}
    assert metadata == DIST_INFO
    assert Counter(name for name in names if ".dist-info/" not in name) == Counter(package_files())


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(archives):
    with tarfile.open(archives[".gz"]) as sdist:
        members = [member for member in sdist.getmembers() if not member.isdir()]
    assert all(member.isfile() for member in members)
    names = {member.name.split("/", 1)[1] for member in members}
    assert names == package_files() | {"pyproject.toml", "README.md", "LICENSE", ".gitignore", "PKG-INFO"}


# --- what installing it does ------------------------------------------------------------------------------------------


def pip(environment: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", *arguments]
    return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout


def pretend_to_install(site_packages: Path, name: str, version: str) -> None:
    """A distribution as pip leaves it: a package and its metadata."""
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/INSTALLER": "pip\n",
    }
    for path, text in files.items():
        (site_packages / path).parent.mkdir(exist_ok=True)
        (site_packages / path).write_text(text, encoding="utf-8")
    record = "".join(f"{path},,\n" for path in [*files, f"{name}-{version}.dist-info/RECORD"])
    (site_packages / f"{name}-{version}.dist-info" / "RECORD").write_text(record, encoding="utf-8")


def test_installing_the_wheel_beside_another_torch_adds_verl_lad_and_changes_nothing(archives, tmp_path):
    venv.create(tmp_path, with_pip=False)
    (site_packages,) = tmp_path.glob("lib/python*/site-packages")
    pretend_to_install(site_packages, "torch", "2.4.0+test")
    pretend_to_install(site_packages, "numpy", "1.26.4+test")

    def contents() -> dict[str, bytes]:
        everything = (path for folder in (site_packages, tmp_path / "bin") for path in folder.rglob("*"))
        return {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in everything if path.is_file()}

    frozen, before = pip(tmp_path, "freeze", "--all").splitlines(), contents()
    assert frozen == ["numpy==1.26.4+test", "torch==2.4.0+test"]
    # dependencies are resolved, not skipped: --no-index makes any wish for another torch an error
    pip(tmp_path, "install", "--no-index", "--no-compile", str(archives[".whl"]))
    names = [one["name"] for one in json.loads(pip(tmp_path, "list", "--format", "json"))]
    assert names == ["numpy", "torch", "verl-lad"]
    after = pip(tmp_path, "freeze", "--all").splitlines()
    assert [line for line in after if not line.startswith("verl-lad @ ")] == frozen
    assert len(after) == len(frozen) + 1
    installed = contents()
    assert {path: installed.get(path) for path in before} == before
    ours = ("bin/verl-lad", f"{site_packages.relative_to(tmp_path)}/verl_lad")
    assert [path for path in set(installed) - set(before) if not path.startswith(ours)] == []


# --- code that comes from elsewhere -----------------------------------------------------------------------------------

CODE_FROM_DATA = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
LOADERS_THAT_UNPICKLE = {"torch.load", "pd.read_pickle", "pandas.read_pickle"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}

DELIBERATE = {
    "verl_lad/rewards/confined.py": {
        "exec": "it runs model-written programs: that is its task, in a process of its own, confined before they start",
        "compile": "the same",
        "pickle": "the confined processes' answers, read by an Unpickler that knows no class but plain data's",
    },
    "verl_lad/adapters/verl/cluster.py": {
        "ray.cloudpickle": "Ray sends our own check to each node by value, since the node may lack verl-lad",
    },
    "recipes/data/livecodebench.py": {
        "pickle": "LiveCodeBench stores its tests as pickled strings; the Unpickler here refuses every class",
    },
    "recipes/study/tasks.py": {"eval": "values of expressions that it has enumerated itself from digits and operators"},
}
"""File -> what it uses of the forbidden -> why."""


def dotted(node: ast.expr) -> str:
    """a.b.c of an expression that is a chain of names; otherwise the part that is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def forbidden_in(source: str) -> set[str]:
    """What this source could run code with that is not in the installed packages."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""] + [f"{node.module}.{name}" for name in names]
            found |= {name for name in names if name.split(".")[-1] in CODE_FROM_DATA}
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not is_constant(node.value, False):
            found.add("trust_remote_code")
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in EVALUATORS:
                found.add(name)
            if name in LOADERS_THAT_UNPICKLE and not is_constant(given.get("weights_only"), True):
                found.add(name)
            if name in ("np.load", "numpy.load") and "allow_pickle" in given:
                found.add(name)
            # SafeLoader makes plain data, BaseLoader text alone; every other loader makes objects.
            makes_objects = not any(loader in ast.unparse(node) for loader in ("yaml.SafeLoader", "yaml.BaseLoader"))
            if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and makes_objects:
                found.add(name)
            if name == "os.system" or is_constant(given.get("shell"), True):
                found.add("shell")
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("from ray import cloudpickle", "ray.cloudpickle"),
        ("from ray.cloudpickle import dumps", "ray.cloudpickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch\ntorch.load('x', weights_only=False)", "torch.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "np.load"),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("__import__(name)", "__import__"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("AutoModel.from_pretrained(path, trust_remote_code=given)", "trust_remote_code"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("os.system(line)", "shell"),
    ],
)
def test_the_scan_sees(source, what):
    assert what in forbidden_in(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load('x', weights_only=True)",
        "np.load('x')",
        "re.compile(text)",
        "model.eval()",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.load(text, yaml.BaseLoader)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
    ],
)
def test_the_scan_lets_pass(source):
    assert forbidden_in(source) == set()


def test_no_pickle_no_eval_no_remote_code_but_the_deliberate_ones():
    found = {
        path.relative_to(REPOSITORY).as_posix(): forbidden_in(path.read_text(encoding="utf-8")) for path in SOURCES
    }
    assert {path: names for path, names in found.items() if names} == {
        path: set(reasons) for path, reasons in DELIBERATE.items()
    }


@pytest.mark.parametrize("suffix", ["sh", "yaml", "yml", "txt", "j2", "patch"])
def test_no_script_or_configuration_switches_remote_code_on(suffix):
    for folder in ("verl_lad", "recipes", "patches"):
        for path in (REPOSITORY / folder).rglob(f"*.{suffix}"):
            assert "trust_remote_code" not in path.read_text(encoding="utf-8"), path


# --- the network ------------------------------------------------------------------------------------------------------

ELSEWHERE = "192.0.2.1"  # of the block that is reserved for documentation: no machine has it


@pytest.mark.parametrize(
    "reach_out",
    [
        lambda: socket.create_connection((ELSEWHERE, 80), timeout=1),
        lambda: socket.socket().connect_ex((ELSEWHERE, 80)),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((ELSEWHERE, 53)),
        lambda: urllib.request.urlopen(f"http://{ELSEWHERE}/", timeout=1),
        lambda: asyncio.run(asyncio.open_connection(ELSEWHERE, 80)),
    ],
    ids=["socket", "connect_ex", "udp", "urllib", "asyncio"],
)
def test_a_test_that_reaches_out_fails(reach_out):
    with pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1, which is not this machine"):
        reach_out()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_a_test_that_reaches_out_over_ipv6_fails():
    with pytest.raises(pytest.fail.Exception, match=r"2001:db8::1, which is not this machine"):
        socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_test_may_talk_to_its_own_machine(host):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1])) as client,
    ):
        client.sendall(b"hello")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(5) == b"hello"


def test_the_guard_does_not_reach_into_processes_that_a_test_starts():
    # said here so that nobody relies on it: what tests/e2e starts is kept off the network by its own settings
    code = "import socket; print(socket.socket.connect.__qualname__)"
    child = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert "guarded" not in child.stdout
    assert "guarded" in socket.socket.connect.__qualname__
