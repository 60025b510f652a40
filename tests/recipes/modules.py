"""Import modules of a recipe, which import each other by plain names that other recipes have too."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace


def load_modules(names: tuple[str, ...], *directories: Path) -> SimpleNamespace:
    """Return the modules as attributes; sys.path and sys.modules are afterwards what they were."""
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    path = list(sys.path)
    sys.path[:0] = map(str, directories)
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path[:] = path
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
