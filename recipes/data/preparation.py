"""What all preparation programs do: read, deduplicate, decontaminate, write, report.

The source is read once. The first row of every problem goes into a temporary file beside the output; when all is read,
the rows that must go are known, and the rest is copied. So memory holds digests, not rows.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from decontamination import COMMON, SHORTEST, Match, N, Overlap, ValidationProblem
from errors import LeftOutError, MalformedRowError, PreparationError
from instructions import MATH_INSTRUCTIONS
from source import DataSet, open_source
from verl_parquet import RowWriter, copy_without, read_metadata, read_questions

from verl_lad.version import __version__


@dataclass(frozen=True)
class Problem:
    """A usable row.

    Attributes:
        question: the problem without any instruction, by which problems are compared.
        prompt: the user's message.
        ground_truth: what the reward function is given.
        id: the source's identifier, "" if it has none.
        metadata: further fields of the source, JSON-serialisable.
    """

    question: str
    prompt: str
    ground_truth: str
    id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What differs between the programs.

    Attributes:
        data_set: where the rows come from.
        data_source: verl's key for the reward function.
        ability: "math" or "code". In mathematics, equal problems with different answers are all dropped: one of them
            is wrong. In code, tests of the same problem differ between sources, and the first row's are kept.
        split: "train" or "test". Training sets can be decontaminated.
        parse: makes a problem of a row; raises MalformedRowError or LeftOutError.
        add_arguments: adds the program's own options.
        one_instruction: in mathematics, whether the reward function knows one instruction only, so that the program has
            no `--instruction`.
    """

    data_set: DataSet
    data_source: str
    ability: str
    split: str
    parse: Callable[[dict[str, Any], argparse.Namespace], Problem]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    one_instruction: bool = False


@dataclass
class _Seen:
    """A problem that was met before: its first row, its answer, how often."""

    index: int
    answer: bytes
    rows: int = 1
    conflicting: bool = False


def typed(row: dict[str, Any], column: str, *kinds: type) -> Any:
    """Read a column, of one of some types.

    Args:
        row: a row of the source, or a part of one.
        column: name of the column.
        kinds: the allowed types; a bool is no int.

    Returns:
        The value.

    Raises:
        MalformedRowError: if it is missing or of another type.
    """
    value = row.get(column)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        allowed = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise MalformedRowError(f"column {column} must be {allowed}, got {type(value).__name__}")
    return value


def answer(row: dict[str, Any], column: str) -> str:
    """Read an answer: a text, or a whole number, which a reader of csv or JSON makes of digits.

    Args:
        row: a row of the source, or a part of one.
        column: name of the column.

    Returns:
        The text; never empty.

    Raises:
        MalformedRowError: if it is neither, or empty.
    """
    value = row.get(column)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(row, column)


def text(row: dict[str, Any], column: str) -> str:
    """Read the text of a column, without blanks around it.

    Args:
        row: a row of the source.
        column: name of the column.

    Returns:
        The text; never empty.

    Raises:
        MalformedRowError: if it is no text, or empty.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise MalformedRowError(f"no text in column {column}")
    return value.strip()


def run(recipe: Recipe, description: str, argv: list[str] | None) -> int:
    """Run a preparation program.

    Args:
        recipe: what the program prepares.
        description: the program's docstring.
        argv: command line without the program's name; None for the process's.

    Returns:
        Exit status: 0, or 1 after a message on standard error.
    """
    arguments = _parse_arguments(recipe, description, argv)
    try:
        metadata = _prepare(recipe, arguments)
    except PreparationError as error:
        print(f"error: {recipe.data_set.name}: {error}", file=sys.stderr)
        return 1
    if recipe.split == "train" and not arguments.decontaminate:
        print("warning: --decontaminate was not given: nothing was compared with validation sets", file=sys.stderr)
    print(f"{arguments.output}: {json.dumps(metadata, indent=1, sort_keys=True, ensure_ascii=False)}")
    return 0


def _parse_arguments(recipe: Recipe, description: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--source",
        type=Path,
        nargs="+",
        metavar="PATH",
        help=f"local files (parquet, jsonl, json, csv), or a directory with a copy of {recipe.data_set.repository}",
    )
    origin.add_argument("--revision", default="main", help="branch, tag or commit on the hub")
    parser.add_argument("--limit", type=_positive, help="stop reading after so many different problems")
    if recipe.ability == "math" and not recipe.one_instruction:
        parser.add_argument(
            "--instruction",
            choices=MATH_INSTRUCTIONS,
            default="answer",
            help='answer: DAPO-Math-17k\'s, a last line "Answer: X"; boxed: \\boxed{X}',
        )
    if recipe.split == "train":
        parser.add_argument(
            "--decontaminate",
            type=Path,
            nargs="+",
            default=[],
            metavar="PARQUET",
            help="validation sets made by these programs; what overlaps with them is removed and reported",
        )
    recipe.add_arguments(parser)
    return parser.parse_args(argv)


def _positive(argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r} is not allowed: a whole number from 1")
    return int(argument)


def _prepare(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    validation_files = arguments.decontaminate if recipe.split == "train" else []
    overlap = Overlap(
        ValidationProblem(path.name, index, question)
        for path in validation_files
        for index, question in read_questions(path)
    )
    source = open_source(recipe.data_set, arguments.source, arguments.revision)
    _make_room(arguments.output)
    malformed: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    seen: dict[bytes, _Seen] = {}
    read = 0
    with tempfile.TemporaryDirectory(prefix=".making-", dir=arguments.output.parent) as directory:
        first_rows = Path(directory) / "first_rows.parquet"
        with RowWriter(first_rows) as writer:
            for index, row in enumerate(source.rows):
                read += 1
                try:
                    problem = recipe.parse(row, arguments)
                except MalformedRowError as error:
                    malformed[str(error)] += 1
                    continue
                except LeftOutError as error:
                    left_out[str(error)] += 1
                    continue
                key, answer = _digest(problem.question), _digest(problem.ground_truth)
                if key in seen:
                    seen[key].rows += 1
                    seen[key].conflicting |= recipe.ability == "math" and answer != seen[key].answer
                    continue
                seen[key] = _Seen(index, answer)
                writer.write(_verl_row(recipe, problem, index))
                overlap.add(index, problem.question)
                if len(seen) == arguments.limit:
                    break
        if read == 0:
            where = ", ".join(map(str, arguments.source or [recipe.data_set.repository]))
            raise PreparationError(f"{where}: has no rows")
        if not seen:
            raise PreparationError(f"none of {read} rows can be used: {dict(malformed + left_out)}")
        conflicting = {problem.index: problem.rows for problem in seen.values() if problem.conflicting}
        matches = [match for match in overlap.matches() if match.index not in conflicting]
        dropped = conflicting.keys() | {match.index for match in matches}
        if len(dropped) == len(seen):
            raise PreparationError(f"all {len(seen)} problems conflict or overlap with a validation set")
        counts = {
            "read": read,
            "kept": len(seen) - len(dropped),
            "duplicates": sum(problem.rows - 1 for problem in seen.values() if not problem.conflicting),
            "conflicting": sum(conflicting.values()),
            "conflicting_problems": len(conflicting),
            "contaminated": len(dropped) - len(conflicting),
            "malformed": dict(sorted(malformed.items())),
            "left_out": dict(sorted(left_out.items())),
        }
        metadata = {
            "program": f"recipes/data/{recipe.data_set.name}.py of verl-lad {__version__}",
            "options": _options(arguments),
            "licence": recipe.data_set.licence,
            "counts": counts,
            **source.provenance,
        }
        if recipe.split == "train":
            metadata["decontamination"] = _summary(validation_files, overlap, matches)
            _write_report(Path(directory) / "report.jsonl", overlap, matches)
            os.replace(Path(directory) / "report.jsonl", arguments.output.with_suffix(".contamination.jsonl"))
        copy_without(first_rows, Path(directory) / "output.parquet", dropped, metadata)
        os.replace(Path(directory) / "output.parquet", arguments.output)
    return metadata


def _make_room(output: Path) -> None:
    """Make the directory of the output, or say why a file cannot be written there."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreparationError(f"--output {output}: its directory cannot be made: {error}") from error
    if output.is_dir():
        raise PreparationError(f"--output {output}: is a directory; allowed is the path of a parquet file")
    if not os.access(output.parent, os.W_OK):
        raise PreparationError(f"--output {output}: {output.parent} cannot be written")


def _digest(content: str) -> bytes:
    """Of NFKC with single blanks: what looks the same is the same. Case stays: a and A are two variables."""
    return hashlib.sha256(" ".join(unicodedata.normalize("NFKC", content).split()).encode("utf-8")).digest()


def _verl_row(recipe: Recipe, problem: Problem, index: int) -> dict[str, Any]:
    return {
        "data_source": recipe.data_source,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": recipe.ability,
        "reward_model": {"style": "rule", "ground_truth": problem.ground_truth},
        "extra_info": {
            "split": recipe.split,
            "index": index,
            "id": problem.id,
            "question": problem.question,
            "metadata": json.dumps(problem.metadata, sort_keys=True, ensure_ascii=False, default=str),
        },
    }


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """All options that change rows, without paths: the same content gives the same file wherever it lies."""
    elsewhere = {"output", "source", "revision", "decontaminate"}
    return {name: value for name, value in vars(arguments).items() if name not in elsewhere}


def _summary(files: list[Path], overlap: Overlap, matches: list[Match]) -> dict[str, Any]:
    removed = Counter(match.validation.file for match in matches)
    return {
        "against": {
            path.name: {
                "overlapping": removed[path.name],
                "source": {key: read_metadata(path)[key] for key in ("repository", "revision")},
            }
            for path in files
        },
        "n": N,
        "shortest": SHORTEST,
        "common": COMMON,
        "ignored_common_n_grams": len(overlap.ignored()),
    }


def _write_report(path: Path, overlap: Overlap, matches: list[Match]) -> None:
    """Return a line for every removed training problem and validation file, then one for every ignored n-gram."""
    lines: list[dict[str, Any]] = [asdict(match) for match in matches]
    lines += [{"ignored": n_gram, "training_problems": count} for n_gram, count in overlap.ignored().items()]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
