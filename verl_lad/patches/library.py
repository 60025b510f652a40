"""The patches that this package carries, and what to do with one in an installed package.

A patch is a file <distribution>-<version>.patch: a text that says what it is for, whose first line is its title, then a
unified diff with paths relative to the directory that holds the package (site-packages).
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from verl_lad.patches.diff import FileDiff, Mismatch, parse_diff

BACKUPS = ".verl-lad-patches"
"""Beside the package: one directory for each patch, with the files as they were."""

State = Literal["applied", "not applied", "half applied"]


class Refused(ValueError):
    """A patch does not belong to what is installed. The message says why."""


@dataclass(frozen=True)
class Patch:
    """One patch.

    Attributes:
        name: of its file, without the suffix.
        distribution, version: what it is for, from the name.
        title: first line of its text.
        files: what it does.
    """

    name: str
    distribution: str
    version: str
    title: str
    files: tuple[FileDiff, ...]

    @classmethod
    def read(cls, name: str, text: str) -> "Patch":
        """Reads a patch.

        Args:
            name: <distribution>-<version>.
            text: the file's content.

        Raises:
            ValueError: if the name or the text is not a patch's.
        """
        distribution, _, version = name.rpartition("-")
        if not distribution or not version[:1].isdigit():
            raise ValueError(f"patch {name!r}: the name must be <distribution>-<version>")
        try:
            diffs = parse_diff(text)
        except ValueError as error:
            raise ValueError(f"patch {name!r}: {error}") from error
        first = text.lstrip().split("\n", 1)[0]
        title = "" if first.startswith(("diff ", "--- ")) else first.removeprefix("Subject: ")
        return cls(name, distribution, version, title, diffs)

    @property
    def package(self) -> str:
        """The importable package that it changes."""
        return self.files[0].path.split("/")[0]


def carried_patches() -> tuple[Patch, ...]:
    """All patches in this package, by name."""
    found = [file for file in files("verl_lad.patches").joinpath("files").iterdir() if file.name.endswith(".patch")]
    named = {file.name.removesuffix(".patch"): file for file in found}
    return tuple(Patch.read(name, named[name].read_text(encoding="utf-8")) for name in sorted(named))


@dataclass(frozen=True)
class Installation:
    """A directory that holds a package.

    Attributes:
        root: the directory, as site-packages.
        version: of the distribution; None if nothing says it, as in a plain copy of the source.
    """

    root: Path
    version: str | None

    def state(self, patch: Patch) -> State:
        """Whether the patch is applied here.

        Raises:
            Refused: if the version is another, or the files are neither those before nor those after.
        """
        patched = {after is None for after in self._pending(patch, forward=True).values()}
        if len(patched) > 1:
            return "half applied"
        return "applied" if patched == {True} else "not applied"

    def apply(self, patch: Patch) -> list[Path]:
        """Applies the patch to all of its files, or to none. Keeps the files as they were under BACKUPS.

        Returns:
            The files changed; empty if the patch was applied already.

        Raises:
            Refused: as for `state`.
            OSError: if a file cannot be written; all are as they were then.
        """
        pending = self._pending(patch, forward=True)
        changes = {path: after[0] for path, after in pending.items() if after is not None}
        for path in changes:
            if (self.root / path).exists():
                backup = self._backup(patch) / path
                backup.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / path, backup)
        self._write(changes)
        return [self.root / path for path in changes]

    def revert(self, patch: Patch) -> list[Path]:
        """Takes the patch out of all of its files, or of none, and removes the backup.

        Returns:
            The files changed; empty if the patch was not applied.

        Raises:
            Refused: as for `state`.
            OSError: as for `apply`.
        """
        pending = self._pending(patch, forward=False)
        changes = {path: after[0] for path, after in pending.items() if after is not None}
        self._write(changes)
        shutil.rmtree(self._backup(patch), ignore_errors=True)
        with contextlib.suppress(OSError):  # another patch's backup is in it, or there was none
            (self.root / BACKUPS).rmdir()
        return [self.root / path for path in changes]

    def _backup(self, patch: Patch) -> Path:
        return self.root / BACKUPS / patch.name

    def _pending(self, patch: Patch, forward: bool) -> Mapping[str, tuple[str | None] | None]:
        """For each file what it becomes, in a tuple; None if it is so already."""
        if self.version not in (None, patch.version):
            raise Refused(
                f"{patch.name} is for {patch.distribution} {patch.version}, and {self.version} is in {self.root}"
            )
        pending: dict[str, tuple[str | None] | None] = {}
        for diff in patch.files:
            content = self._read(diff.path)
            try:
                # First: an addition at a file's end fits the patched file as well.
                original = diff.reversed().apply(content)
            except Mismatch:
                pass
            else:
                pending[diff.path] = None if forward else (original,)
                continue
            try:
                patched = diff.apply(content)
                pending[diff.path] = (patched,) if forward else None
            except Mismatch as error:
                backup = self._backup(patch)
                kept = f"; the file as it was is in {backup}" if backup.exists() else ""
                raise Refused(
                    f"{patch.name} does not fit {self.root}: {error}. The file is not that of {patch.distribution} "
                    f"{patch.version}, with or without the patch{kept}"
                ) from error
        return pending

    def _read(self, path: str) -> str | None:
        try:
            return (self.root / path).read_bytes().decode("utf-8")
        except FileNotFoundError:
            return None

    def _write(self, changes: Mapping[str, str | None]) -> None:
        """Each file is replaced as a whole; if one cannot be, those before it are put back."""
        before = {path: self._read(path) for path in changes}
        done: list[str] = []
        try:
            for path, content in changes.items():
                self._replace(path, content)
                done.append(path)
        except BaseException:
            for path in done:
                self._replace(path, before[path])
            raise

    def _replace(self, path: str, content: str | None) -> None:
        target = self.root / path
        if content is None:
            target.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode("utf-8"))
            os.chmod(temporary, target.stat().st_mode & 0o7777 if target.exists() else 0o644)
            os.replace(temporary, target)  # a new file: installers that link files from a cache keep theirs intact
        except BaseException:
            os.unlink(temporary)
            raise


def find_installation(patch: Patch, target: Path | None = None) -> Installation:
    """Where the package of a patch is. Does not import it.

    Args:
        patch: which package.
        target: the directory that holds it (site-packages, or a source tree); None for that which Python would import.

    Raises:
        Refused: if it is not there.
    """
    if target is None:
        spec = find_spec(patch.package)
        if spec is None or spec.origin is None:
            raise Refused(f"{patch.package} is not installed in this environment; name its directory with --target")
        root = Path(spec.origin).resolve().parent.parent
    else:
        root = target.resolve()
        if not (root / patch.package).is_dir():
            raise Refused(f"{root} holds no package {patch.package}")
    versions = _versions(patch.distribution, [str(root)])
    if not versions and target is None:  # an editable installation: what is known of it is elsewhere
        versions = _versions(patch.distribution, None)
    if len(versions) > 1:
        raise Refused(f"{root} holds several versions of {patch.distribution}: {', '.join(versions)}")
    return Installation(root, versions[0] if versions else None)


def _versions(distribution: str, path: Sequence[str] | None) -> list[str]:
    found = (
        metadata.distributions(name=distribution)
        if path is None
        else metadata.distributions(name=distribution, path=list(path))
    )
    return sorted({item.version for item in found})
