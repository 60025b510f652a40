"""Rows of a data set, streamed by Hugging Face's `datasets` from the hub or from local files."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from errors import PreparationError
from huggingface_hub import HfApi, constants

HUB_TIMEOUT = 10.0  # seconds
BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies and what it must look like.

    Attributes:
        name: our short name; `--source` on the command line takes a local copy of it.
        repository: name on the hub.
        split: the hub's split.
        columns: columns that every part must have.
        local_files: which files of a directory are read, relative to it, without their extension. A directory is
            taken for a copy of the hub's repository.
        licence: as far as we know it. The card's own, at the revision that was read, is recorded beside it.
        configs: the hub's configurations, one after the other.
        hub_files: pattern of files to read instead of configurations, where the repository needs a script, which
            `datasets` no longer runs.
    """

    name: str
    repository: str
    split: str
    columns: tuple[str, ...]
    local_files: tuple[str, ...]
    licence: str
    configs: tuple[str | None, ...] = (None,)
    hub_files: str | None = None


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        provenance: what the metadata says about it, JSON-serialisable.
        rows: all rows, in order, once.
    """

    provenance: dict[str, Any]
    rows: Iterator[dict[str, Any]]


def open_source(data_set: DataSet, paths: list[Path] | None, revision: str) -> Source:
    """Open local files if there are any, the hub otherwise.

    Args:
        data_set: the data set.
        paths: local files, or directories that are copies of the hub's repository; None for the hub.
        revision: branch, tag or commit on the hub.

    Returns:
        The source; rows are read when they are asked for.

    Raises:
        PreparationError: if the source cannot be read or lacks a column, now or while rows are read.
    """
    if paths is not None:
        files = _local_files(data_set, paths)
        described = [{"name": name, "sha256": _sha256(path)} for name, path in files]
        local = {"repository": data_set.repository, "revision": "local files", "files": described}
        return Source(local, _read_local(data_set, [path for _, path in files]))
    try:
        info = HfApi().dataset_info(data_set.repository, revision=revision, timeout=HUB_TIMEOUT)
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(data_set, revision, error) from error
    provenance: dict[str, Any] = {
        "repository": data_set.repository,
        "revision": info.sha,
        "licence_of_card": info.card_data.license if info.card_data else None,
    }
    return Source(provenance, _read_hub(data_set, str(info.sha)))


def _read_hub(data_set: DataSet, commit: str) -> Iterator[dict[str, Any]]:
    try:
        for config in data_set.configs:
            if data_set.hub_files is None:
                rows = load_dataset(data_set.repository, config, split=data_set.split, revision=commit, streaming=True)
            else:
                files = f"hf://datasets/{data_set.repository}@{commit}/{data_set.hub_files}"
                rows = load_dataset("json", data_files=files, split="train", streaming=True)
            yield from _with_columns(rows, data_set.columns, f"{data_set.repository}, configuration {config}")
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(data_set, commit, error) from error


def _read_local(data_set: DataSet, files: list[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        try:
            rows = load_dataset(_builder(path), data_files=str(path), split="train", streaming=True)
            yield from _with_columns(rows, data_set.columns, str(path))
        except StopIteration as error:  # of `datasets`, which looks at the first row
            raise PreparationError(f"{path}: has no rows") from error
        except (ValueError, OSError, EOFError, zlib.error, DatasetGenerationError) as error:
            raise PreparationError(f"{path}: cannot be read as {_builder(path)}: {error}") from error


def _with_columns(rows: Any, columns: tuple[str, ...], where: str) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        if number == 0 and (missing := [column for column in columns if column not in row]):
            raise PreparationError(f"{where}: no column {', '.join(missing)}; its columns are {', '.join(row)}")
        yield row


def _local_files(data_set: DataSet, paths: list[Path]) -> list[tuple[str, Path]]:
    """Find the files; each with a name for the metadata, which does not depend on where the file lies."""
    files = []
    for path in paths:
        if path.is_dir():
            found = [
                file
                for pattern in data_set.local_files
                for file in sorted(path.glob(f"{pattern}.*"))
                if file.is_file() and _builder(file) is not None
            ]
            if not found:
                patterns = ", ".join(f"{pattern}.*" for pattern in data_set.local_files)
                raise PreparationError(f"{path}: no file {patterns} ({', '.join(BUILDERS)}, or these with .gz) in it")
            files += [(file.relative_to(path).as_posix(), file) for file in found]
        elif not path.is_file():
            raise PreparationError(f"{path}: no such file or directory")
        elif _builder(path) is None:
            raise PreparationError(f"{path}: unknown extension; allowed are {', '.join(BUILDERS)}, or these with .gz")
        else:
            files.append((path.name, path))
    return files


def _builder(path: Path) -> str | None:
    return BUILDERS.get(Path(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _unreachable(data_set: DataSet, revision: str, error: Exception) -> PreparationError:
    url = f"{constants.ENDPOINT}/api/datasets/{data_set.repository}/revision/{revision}"
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    return PreparationError(
        f"{data_set.repository} cannot be read from the hub: {cause}\n"
        f"  tried {url}\n"
        f"  By hand: where the hub can be reached,\n"
        f"    hf download {data_set.repository} --repo-type dataset --local-dir {data_set.name}\n"
        f"  copy the directory here and run this program again with\n"
        f"    --source {data_set.name}"
    )
