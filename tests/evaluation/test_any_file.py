"""Whatever lies in a run's directory, the report names what it cannot use and never ends in a traceback."""

import json
import sys
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from verl_lad.cli.main import main
from verl_lad.evaluation import load_runs
from verl_lad.evaluation.table import format_table, make_rows

from .synthetic_runs import write_lines

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**53, 2**63])
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def objects(*keys: str) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))


def likely(**keys: st.SearchStrategy) -> st.SearchStrategy[dict[str, object]]:
    """Objects whose keys are mostly of the right type, so that the reader gets further."""
    return st.fixed_dictionaries({key: strategy | values for key, strategy in keys.items()})


def as_lines(entries: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[bytes]:
    return st.lists(entries, max_size=6).map(lambda many: b"".join(json.dumps(one).encode() + b"\n" for one in many))


samples = objects("input", "output", "gts", "score", "acc", "uid", "benchmark", "solution") | likely(
    input=st.sampled_from(["p", "q"]),
    output=st.text(max_size=3),
    gts=scalars,
    score=st.floats(-1, 1),
    uid=st.from_regex(r"[ab]_[0-2]_[01]", fullmatch=True),
    benchmark=st.none() | st.sampled_from(["A", "B"]),
)
metrics = likely(step=st.integers(0, 9), data=st.dictionaries(st.text(max_size=5), scalars, max_size=3))
statements = likely(algo=st.text(), seed=st.integers()).map(json.dumps).map(str.encode)
FILES = {
    "run.json": statements,
    "metrics.jsonl": as_lines(metrics),
    "validation/0.jsonl": as_lines(samples),
    "validation/10.jsonl": as_lines(samples),
    "metrics-2.jsonl": as_lines(metrics),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.fixed_dictionaries({}, optional={name: content | st.binary() for name, content in FILES.items()}))
@example(
    {"metrics.jsonl": b'{"step": 1, "data": {"x": ' + b"9" * 400 + b"}}\n", "validation/0.jsonl": b"\xed\xa0\x80\n"}
)
def test_any_files_are_read_or_named(tmp_path, contents):
    for name in FILES:
        (tmp_path / name).unlink(missing_ok=True)
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    complaints: list[str] = []
    runs = load_runs([tmp_path], complain=complaints.append)
    rows = make_rows(runs, complaints.append)
    if rows:
        format_table(rows).encode()
    "".join(complaints).encode()
    assert runs or complaints


def write_extreme_run(path: Path, algo: str) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"algo": algo * 50, "seed": -(10**300)}))
    points = {0: 1e300, 1: -1e300, 2: 5e-324, 2**53 - 1: 0.0}
    names = ("actor/entropy", "actor/lad/$x_{", "val-core/\n\\frac/mean@1", "critic/score/mean")
    write_lines(path / "metrics.jsonl", [{"step": s, "data": dict.fromkeys(names, v)} for s, v in points.items()])
    for step in (0, 1, 2**53 - 1):
        entries = [
            {"input": "p", "output": "o", "score": score, "benchmark": benchmark}
            for benchmark in ("", "_", "$\\frac", "b" * 300)
            for score in (-1e300, 1e300)
        ]
        write_lines(path / f"validation/{step}.jsonl", entries)
    return path


def test_extreme_numbers_and_names_are_drawn(tmp_path, capsys):
    runs = [
        write_extreme_run(tmp_path / str(i), algo)
        for i, algo in enumerate(["", " ", "$\\frac{", "_\x00\x1b[31m", "日本"])
    ]
    output = tmp_path / "out"
    assert main(["report", *map(str, runs), "--output", str(output), "--figure", str(tmp_path / "figure.pdf")]) == 0
    assert "</html>" in (output / "report.html").read_text("utf-8")
    assert sys.getsizeof(json.loads((output / "summary.json").read_text()))


def test_depth_costs_its_line_alone(tmp_path):
    """Python's parser gives up at some depth near its limit of recursion; what it takes is counted."""
    depths = [1, 50, *range(900, 1000), 10**5]
    deep = ['{"input": "p", "output": "o", "score": 1, "gts": ' + "[" * depth + "]" * depth + "}" for depth in depths]
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation/0.jsonl").write_text("\n".join([*deep, ""]))
    complaints: list[str] = []
    (run,) = load_runs([tmp_path], complain=complaints.append)
    counted = sum(problem.total for problem in run.problems("validation", 0).values())
    assert 2 <= counted < len(depths)
    assert "malformed JSON: nested too deeply" in complaints[0]
    dump = tmp_path / "validation/0.jsonl"
    left_out = len(depths) - counted
    if left_out > 5:
        assert complaints[-1] == f"{dump}: {left_out} lines were left out, of which the first 5 are named"
    else:
        assert len(complaints) == left_out
