"""The names are registered when the registries are imported: by whom, how often and from which thread is all one."""

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from verl_lad.adapters.verl.after_import import after_import

REGISTRIES = "verl.trainer.ppo.core_algos"
HAS_LAD = "print('lad' in core_algos.POLICY_LOSS_REGISTRY, 'lad' in core_algos.ADV_ESTIMATOR_REGISTRY)"


def printed(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module to import, and the finders and modules as they were afterwards."""
    (tmp_path / "lad_imported_later.py").write_text("import time\ntime.sleep(0.2)\nvalue = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "lad_imported_later"
    sys.modules.pop("lad_imported_later", None)


def test_import_verl_does_not_import_the_registries():
    assert printed(f"import sys, verl; print({REGISTRIES!r} in sys.modules)") == ["False"]


@pytest.mark.parametrize(
    "statement",
    [
        f"import {REGISTRIES} as core_algos",
        "from verl.trainer.ppo import core_algos",
        f"import importlib; core_algos = importlib.import_module({REGISTRIES!r})",
        f"import verl; import {REGISTRIES} as core_algos",
        f"from verl.workers.utils import losses; import sys; core_algos = sys.modules[{REGISTRIES!r}]",
        f"import {REGISTRIES} as core_algos; import importlib; core_algos = importlib.reload(core_algos)",
        f"import pickle, verl; core_algos = pickle.loads(b'c{REGISTRIES}\\nagg_loss\\n.').__globals__; "
        "import types; core_algos = types.SimpleNamespace(**core_algos)",
    ],
)
def test_whoever_has_the_registries_finds_lad_in_them(statement):
    assert printed(f"{statement}; {HAS_LAD}") == ["True", "True"]


def test_an_error_of_the_registration_is_loud_and_kept_for_the_doctor():
    code = (
        "import verl\n"
        "from verl_lad.adapters.verl import plugin\n"
        "assert plugin.load_error is None\n"
        "import sys\n"
        "sys.modules['verl_lad.adapters.verl.settings'] = None\n"
        f"import {REGISTRIES} as core_algos\n"
        f"{HAS_LAD}\n"
        "print(plugin.load_error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("False False\n")
    assert "settings" in done.stdout
    assert "verl-lad could not load" in done.stderr
    assert "verl-lad doctor" in done.stderr


def test_no_thread_sees_the_module_before_it_is_done(module):
    after_import(module, lambda imported: imported.value.append("done"))
    seen = []

    def look() -> None:
        seen.append(list(importlib.import_module(module).value))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["done"], ["done"]]


def test_the_module_is_executed_once_and_is_otherwise_as_always(module):
    plain = importlib.import_module(module)
    sys.modules.pop(module)
    calls = []
    after_import(module, calls.append)
    hooked = importlib.import_module(module)
    assert calls == [hooked]
    assert type(hooked.__loader__) is type(plain.__loader__)
    assert (hooked.__file__, hooked.__spec__.origin) == (plain.__file__, plain.__spec__.origin)
    importlib.reload(hooked)
    assert calls == [hooked, hooked]


def test_a_finder_that_asks_all_others_ends(module):
    class Asking:
        """As the hooks of wandb and of tracers do."""

        def find_spec(self, name, path, target=None):
            if name != module or getattr(self, "asked", False):
                return None
            self.asked = True
            return importlib.util.find_spec(name)

    calls = []
    sys.meta_path.insert(0, Asking())
    after_import(module, calls.append)
    sys.meta_path.insert(0, Asking())
    assert calls == [importlib.import_module(module)]


def test_a_module_that_does_not_exist_still_does_not(module):
    after_import("lad_never_there", lambda imported: None)
    with pytest.raises(ModuleNotFoundError, match="lad_never_there"):
        importlib.import_module("lad_never_there")
