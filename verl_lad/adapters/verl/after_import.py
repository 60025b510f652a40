"""Something to do as soon as a module has been imported, by whomever, without importing it now."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(name: str, do: Callable[[ModuleType], None]) -> None:
    """Calls do(module) at the end of the import of the module of that name, before the import statement returns.

    The importing thread holds the module's lock meanwhile, so no other thread sees the module without it. A reload
    calls it again. Nothing is done about a module that is already imported.

    Args:
        name: full name of the module.
        do: must not raise: an exception would fail the import.
    """
    sys.meta_path.insert(0, _AfterImport(name, do))


class _AfterImport(MetaPathFinder):
    """Finds the one module as the other finders do, and has its loader call `do` when it has executed the module."""

    def __init__(self, name: str, do: Callable[[ModuleType], None]):
        self._name, self._do, self._asking = name, do, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The others' spec, or None if the module is another or they do not find it."""
        if fullname != self._name or self._asking:  # asking: a finder that asks all others leads back to this one
            return None
        self._asking = True
        try:
            finders = [finder for finder in sys.meta_path if finder is not self]
            spec = next((spec for finder in finders if (spec := finder.find_spec(fullname, path, target))), None)
        finally:
            self._asking = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_do(module: ModuleType) -> None:
            execute(module)
            self._do(module)

        spec.loader.exec_module = execute_and_do  # type: ignore[method-assign]
        return spec
