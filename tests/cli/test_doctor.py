"""Most of these run the command in a process of its own, as users do: about a minute of processor time in all."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

import verl_lad
from verl_lad.adapters.verl import cluster, doctor
from verl_lad.cli.doctor import Finding, format_findings

pytestmark = pytest.mark.timeout(1300)

SECONDS = 1200
"""For one run of the doctor. A net, not an expectation: one with Ray takes 30 s, on shared cores 190 s."""
PACKAGE = Path(verl_lad.__file__).resolve().parent
DOCTOR = ("-m", "verl_lad.cli.main", "doctor", "--json")
DOCTOR_WITHOUT_VERL = (
    "-c",
    "import sys; sys.modules['verl'] = None\nfrom verl_lad.cli.main import main; sys.exit(main(['doctor', '--json']))",
)
PLUGIN_CHECKS = ("plugin", "policy loss", "advantage estimator")


def run_python(cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In an empty directory, since `python -m` and `-c` put the working directory on the path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RAY_", "PYTHONPATH"))}
    settings = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}
    empty = cwd / "empty"
    empty.mkdir()
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=empty,
        env={**clean, **settings, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Screen:
    """What one run of the doctor found."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stdout.startswith("{"), done.stderr
        report = json.loads(done.stdout)
        self.exit_status = done.returncode
        self.ok: bool = report["ok"]
        self.stderr = done.stderr
        self.findings = {entry["name"]: Finding(**entry) for entry in report["findings"]}
        assert len(self.findings) == len(report["findings"])

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def names(self, status: str) -> list[str]:
        return [name for name, finding in self.findings.items() if finding.status == status]


def assert_not_ready(screen: Screen) -> None:
    assert (screen.exit_status, screen.ok) == (1, False)
    for finding in screen.findings.values():
        assert (finding.remedy is None) == (finding.status == "ok"), finding
        assert finding.remedy is None or "\n" not in finding.remedy


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Screen:
    return Screen(run_python(tmp_path_factory.mktemp("healthy"), *DOCTOR, "--ray"))


@pytest.fixture(scope="module")
def broken_copy(tmp_path_factory) -> Path:
    """A directory for PYTHONPATH with a verl_lad from which a file is missing."""
    path = tmp_path_factory.mktemp("broken")
    shutil.copytree(PACKAGE, path / "verl_lad", ignore=shutil.ignore_patterns("__pycache__"))
    (path / "verl_lad/adapters/verl/policy_loss.py").unlink()
    return path


def test_this_environment_is_ready(healthy):
    assert (healthy.exit_status, healthy.ok) == (0, True), format_findings(list(healthy.findings.values()))
    assert healthy.names("broken") == healthy.names("warning") == []
    assert list(healthy.findings) == [
        *("verl-lad", "python", "verl", "torch", "ray", "hydra-core", "omegaconf", "vllm", "transformers"),
        *("discovery", *PLUGIN_CHECKS, "command line", "ray worker", "math reward", "sandbox"),
    ]


def test_versions_and_places_are_named(healthy):
    assert healthy["verl-lad"].detail == f"{verl_lad.__version__} in {PACKAGE}"
    assert sys.version.split()[0] in healthy["python"].detail
    assert healthy["verl"].detail.startswith("0.9.")


def test_fresh_ray_worker_has_lad_of_the_same_version(healthy):
    assert healthy["ray worker"] == Finding("ray worker", "ok", f"verl-lad {verl_lad.__version__}")


@pytest.mark.parametrize(
    ("address", "trains", "name", "status"),
    [
        ("local", False, "ray worker", "broken"),
        ("auto", True, "ray node 10.0.0.2 (ab12)", "broken"),
        ("auto", False, "ray node 10.0.0.2 (ab12)", "warning"),
    ],
)
def test_a_node_without_lad_is_named_with_what_to_do(monkeypatch, address, trains, name, status):
    ray = SimpleNamespace(init=lambda **_: None, shutdown=lambda: None)
    node = cluster.Node("10.0.0.2 (ab12)", trains, "verl 0.9.1 finds no verl-lad")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "look_into_nodes", lambda: [node])
    (finding,) = doctor._examine_ray(address)
    assert (finding.name, finding.status, finding.detail) == (name, status, node.complaint)
    assert f"pip install --no-deps verl-lad=={verl_lad.__version__}" in finding.remedy


@pytest.mark.parametrize(
    ("value", "with_lad"), [("none", "VERL_USE_EXTERNAL_PLUGINS=lad,"), ("hyperlight", "=hyperlight,lad,")]
)
def test_switched_off_discovery_names_the_variable_and_the_remedy(tmp_path, value, with_lad):
    screen = Screen(run_python(tmp_path, *DOCTOR, VERL_USE_EXTERNAL_PLUGINS=value))
    assert_not_ready(screen)
    assert screen.names("broken") == ["discovery", *PLUGIN_CHECKS]
    assert f"VERL_USE_EXTERNAL_PLUGINS={value!r}" in screen["discovery"].detail
    assert "unset VERL_USE_EXTERNAL_PLUGINS" in screen["discovery"].remedy
    assert with_lad in screen["discovery"].remedy
    assert screen["command line"].status == "warning"


@pytest.mark.parametrize(
    ("plugins", "modules", "status"),
    [
        ("auto", "", "ok"),
        ("AUTO ", "", "ok"),
        ("other, LAD", "", "ok"),
        ("", "", "broken"),  # exported, but empty: a list without lad
        ("lad2", "", "broken"),
        ("none", "other", "broken"),
        ("none", f"other,{doctor.PLUGIN}", "warning"),
    ],
)
def test_discovery_reads_the_variables_as_verl_does(monkeypatch, plugins, modules, status):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", plugins)
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", modules)
    (finding,) = doctor._examine_discovery(None)
    assert finding.status == status


@pytest.mark.parametrize(
    ("modules", "loaded", "status", "words"),
    [
        ("", False, "broken", "patches/"),
        (f"other,{doctor.PLUGIN}", True, "ok", "VERL_USE_EXTERNAL_MODULES"),
        ("", True, "ok", "entry point"),  # a patched verl
    ],
)
def test_a_verl_without_plugins_needs_the_variable_or_a_patch(monkeypatch, modules, loaded, status, words):
    monkeypatch.delenv("VERL_USE_EXTERNAL_PLUGINS", raising=False)
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", modules)
    monkeypatch.setattr(sys, "modules", {**sys.modules, doctor.PLUGIN: sys} if loaded else without_plugin())
    (finding,) = doctor._examine_discovery("0.8.0")
    assert finding.status == status
    assert words in (finding.remedy or finding.detail)


def without_plugin() -> dict:
    return {name: module for name, module in sys.modules.items() if name != doctor.PLUGIN}


def test_package_on_pythonpath_alone_is_not_discovered(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "verl_lad" not in entry.name:
            (site / entry.name).symlink_to(entry)
    (site / "verl_lad").symlink_to(PACKAGE)
    screen = Screen(run_python(tmp_path, "-S", *DOCTOR, PYTHONPATH=str(site)))
    assert_not_ready(screen)
    assert screen.names("broken") == ["discovery", *PLUGIN_CHECKS]
    assert "no installed distribution has the entry point" in screen["discovery"].detail
    assert "pip install" in screen["discovery"].remedy


def test_old_verl_is_to_be_upgraded(tmp_path):
    (tmp_path / "verl").mkdir()
    (tmp_path / "verl/__init__.py").write_text("__version__ = '0.6.1'\n")
    screen = Screen(run_python(tmp_path, *DOCTOR, PYTHONPATH=str(tmp_path)))
    assert_not_ready(screen)
    assert screen.names("broken") == ["verl", "discovery"]
    assert f"0.6.1 in {tmp_path / 'verl'} is too old" in screen["verl"].detail
    assert "VERL_USE_EXTERNAL_MODULES" in screen["discovery"].detail
    assert "--upgrade 'verl>=0.9.0'" in screen["verl"].remedy


def test_missing_verl_is_a_finding(tmp_path):
    screen = Screen(run_python(tmp_path, *DOCTOR_WITHOUT_VERL))
    assert_not_ready(screen)
    assert screen.names("broken") == ["verl"]
    assert "not installed" in screen["verl"].detail
    assert "Traceback" not in screen.stderr


def test_verl_that_fails_to_import_is_a_finding_with_its_cause(tmp_path):
    (tmp_path / "verl").mkdir()
    (tmp_path / "verl/__init__.py").write_text("print('noise')\nraise OSError('libcudart.so.13: no such file')\n")
    screen = Screen(run_python(tmp_path, *DOCTOR, PYTHONPATH=str(tmp_path)))
    assert_not_ready(screen)
    assert screen.names("broken") == ["verl"]
    assert "OSError: libcudart.so.13: no such file" in screen["verl"].detail
    assert f"{tmp_path / 'verl/__init__.py'}:2" in screen["verl"].detail


def test_plugin_that_fails_to_load_is_named_with_its_cause(tmp_path, broken_copy):
    screen = Screen(run_python(tmp_path, *DOCTOR, PYTHONPATH=str(broken_copy)))
    assert_not_ready(screen)
    assert screen.names("broken") == list(PLUGIN_CHECKS)
    assert str(broken_copy / "verl_lad") in screen["verl-lad"].detail
    assert "ModuleNotFoundError: No module named 'verl_lad.adapters.verl.policy_loss'" in screen["plugin"].detail
    assert "reinstall" in screen["plugin"].remedy


def test_broken_objective_is_named(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "verl_lad", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "verl_lad/objective/loss.py").unlink()
    screen = Screen(run_python(tmp_path, *DOCTOR, PYTHONPATH=str(tmp_path)))
    assert_not_ready(screen)
    assert "No module named 'verl_lad.objective.loss'" in screen["plugin"].detail


def test_import_verl_survives_a_broken_plugin_and_warns_loudly(tmp_path, broken_copy):
    done = run_python(tmp_path, "-c", "import verl; print('survived')", PYTHONPATH=str(broken_copy))
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["survived"]), done.stderr
    assert "WARNING" in done.stderr
    assert "verl-lad could not load" in done.stderr
    assert "No module named 'verl_lad.adapters.verl.policy_loss'" in done.stderr
    assert "verl-lad doctor" in done.stderr


def test_name_that_another_package_took_is_named_with_its_owner(tmp_path):
    (tmp_path / "thief.py").write_text(
        "from verl.trainer.ppo.core_algos import register_policy_loss\n"
        "@register_policy_loss('lad')\n"
        "def stolen_loss(): ...\n"
    )
    screen = Screen(run_python(tmp_path, *DOCTOR, PYTHONPATH=str(tmp_path), VERL_USE_EXTERNAL_MODULES="thief"))
    assert_not_ready(screen)
    assert screen.names("broken") == list(PLUGIN_CHECKS)
    assert "thief.stolen_loss" in screen["policy loss"].detail
    assert "thief.stolen_loss is already registered" in screen["plugin"].detail


@pytest.mark.parametrize(
    ("script", "reason", "remedy"),
    [
        (
            "import sys; sys.exit('Could not override algorithm.policy_loss')",
            "Could not override",
            "HYDRA_FULL_ERROR=1",
        ),
        ("import nonsuch_module", "No module named 'nonsuch_module'", "pip install cachetools"),
        ("print('loss_mode: vanilla')", f"without _target_: {doctor.POLICY_LOSS_TARGET}", "--info searchpath"),
        ("import time; time.sleep(600)", "TimeoutExpired", "reinstall"),
    ],
)
def test_failed_composition_says_what_failed(monkeypatch, script, reason, remedy):
    monkeypatch.setattr(doctor, "COMPOSE", ["-S", "-c", script])
    monkeypatch.setattr(doctor, "COMPOSE_SECONDS", 5 if reason == "TimeoutExpired" else 250)
    (finding,) = doctor._guarded("command line", doctor.REINSTALL, doctor._examine_composition)
    assert finding.status == "broken"
    assert reason in finding.detail
    assert remedy in finding.remedy


def test_missing_rollout_engine_and_tokenizers_are_warnings_only(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"torch": "2", "hydra-core": "1.3", "omegaconf": "2.3"}.get)
    statuses = {finding.name: finding.status for finding in doctor._examine_versions()}
    assert {name for name, status in statuses.items() if status == "warning"} == {"vllm", "transformers"}
    assert {name for name, status in statuses.items() if status == "broken"} == {"ray"}


def test_exception_that_no_check_foresaw_is_a_finding_with_its_place():
    def check():
        yield Finding("before", "ok", "")
        raise KeyError("surprise")

    before, finding = doctor._guarded("check", "do this", check)
    assert (before.name, finding.name, finding.status, finding.remedy) == ("before", "check", "broken", "do this")
    assert "KeyError: 'surprise'" in finding.detail
    assert 'raise KeyError("surprise")' in finding.detail


def test_screen_shows_each_finding_with_its_remedy_and_a_verdict():
    findings = [
        Finding("verl-lad", "ok", "0.1.0"),
        Finding("vllm", "warning", "not installed", "install it"),
        Finding("verl", "broken", "too old\nby far", "upgrade"),
    ]
    assert format_findings(findings).splitlines() == [
        "ok       verl-lad  0.1.0",
        "WARNING  vllm      not installed",
        "                   -> install it",
        "BROKEN   verl      too old",
        "                   by far",
        "                   -> upgrade",
        "",
        "LAD is not ready. Begin with: verl",
    ]
    assert "LAD is ready" in format_findings(findings[:2])


def test_importing_the_command_does_not_import_verl(tmp_path):
    script = (
        "import sys, verl_lad.cli.main, verl_lad.cli.doctor\n"
        "print(sorted({'verl', 'ray', 'hydra', 'transformers'} & set(sys.modules)))"
    )
    assert run_python(tmp_path, "-c", script).stdout.strip() == "[]"
