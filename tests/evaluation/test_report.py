import ast
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import verl_lad.evaluation
from verl_lad.evaluation import bootstrap_mean, load_runs, make_report
from verl_lad.evaluation.records import refuse
from verl_lad.evaluation.table import RESAMPLES, Row, make_rows


def write_run(
    path: Path,
    algo: str,
    steps: dict[int, tuple[float, int]],
    prompts: int = 20,
    samples: int = 64,
) -> Path:
    """A run in verl's format: `steps` gives the accuracy of each step and its number of equally likely solutions."""
    rng = np.random.default_rng(0)
    (path / "validation").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"algo": algo}))
    for step, (accuracy, solutions) in steps.items():
        with (path / "validation" / f"{step}.jsonl").open("w") as file:
            for prompt in range(prompts):
                for _ in range(samples):
                    acc = float(rng.random() < accuracy)
                    entry = {
                        "input": f"prompt {prompt}",
                        "output": f"solution {rng.integers(solutions)}",
                        "gts": "",
                        "score": acc,
                        "step": step,
                        "acc": acc,
                    }
                    file.write(json.dumps(entry) + "\n")
    return path


@pytest.fixture(scope="module")
def collapsing(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "a", "grpo", {0: (0.4, 8), 10: (0.7, 4), 20: (0.9, 1)})


@pytest.fixture(scope="module")
def diverse(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "b", "lad", {0: (0.4, 8), 10: (0.6, 8), 20: (0.8, 8)})


def table(runs: list[Path], directory: Path) -> str:
    made = make_report(runs, directory / "out")
    assert made.complaints == []
    return made.table


def rows_of(run: Path) -> list[Row]:
    return make_rows(load_runs([run]), refuse)


def test_rows_recover_accuracy_and_the_effective_number(collapsing):
    base, middle, last = rows_of(collapsing)
    assert [base.step, middle.step, last.step] == [0, 10, 20]
    assert (base.runs, base.problems, base.samples) == (1, 20, 1280)
    for row, (accuracy, solutions) in zip((base, middle, last), ((0.4, 8), (0.7, 4), (0.9, 1)), strict=True):
        avg = row.estimates["avg"]
        assert avg.value == pytest.approx(accuracy, abs=0.05)
        assert avg.low < avg.value < avg.high
        assert row.estimates["effective_solutions"].value == pytest.approx(solutions, rel=0.14)
        assert row.estimates["distinct_solutions"].value == pytest.approx(solutions, rel=0.02)
    assert base.estimates["share_of_base"].value == 1.0
    assert last.estimates["share_of_base"].value == pytest.approx(1 / 8, rel=0.14)


def test_accuracy_alone_leaves_the_share_of_the_base_at_one(diverse):
    for row in rows_of(diverse):
        assert row.estimates["share_of_base"].value == pytest.approx(1.0, abs=0.15)  # 4 standard errors


def test_summary_is_strict_json_even_where_undefined(tmp_path):
    never_agreeing = write_run(tmp_path / "run", "lad", {0: (0.5, 10**9), 1: (0.0, 1)}, prompts=3, samples=8)
    make_report([never_agreeing], tmp_path / "out")
    base, later = (row["estimates"] for row in json.loads((tmp_path / "out/summary.json").read_text())["rows"])
    assert base["effective_solutions"] == {"value": None, "low": None, "high": None, "problems": 3}  # no bound
    assert "effective_solutions" not in later  # nothing is correct
    assert "share_of_base" not in later


def test_interval_of_a_validation_covers_the_truth_in_95_of_100_validations():
    """Problems differ in difficulty, so an interval that took samples for independent would cover far less."""
    rng = np.random.default_rng(1)
    accuracies = rng.binomial(16, rng.beta(0.5, 0.5, size=(2000, 50))) / 16  # true mean 0.5
    intervals = [bootstrap_mean(a, seed=i, resamples=RESAMPLES) for i, a in enumerate(accuracies)]
    assert np.mean([i.low < 0.5 < i.high for i in intervals]) == pytest.approx(0.945, abs=0.02)  # 4 standard errors


def test_table_has_a_row_per_algorithm_and_step_and_labels_the_base(collapsing, diverse, tmp_path):
    lines = table([collapsing, diverse], tmp_path).splitlines()
    rows = [line.split() for line in lines[2:]]
    assert [row[:2] for row in rows] == [[a, s] for a in ("grpo", "lad") for s in ("0", "10", "20")]
    assert [row[2] == "(base)" for row in rows] == [True, False, False] * 2
    assert all("100%" in row for row in rows if row[2] == "(base)")
    assert all(row[-10:-8] == ["1", "20"] for row in rows), "one run, twenty problems"
    assert len({len(line) for line in lines}) == 1


def test_table_shows_undefined_and_unbounded_numbers(tmp_path):
    run = write_run(tmp_path / "run", "lad", {0: (0.5, 10**9), 1: (0.0, 1)}, prompts=3, samples=8)
    base, after = table([run], tmp_path).splitlines()[2:4]
    assert base.split()[-5:-3] == ["inf", "-"]
    assert after.split()[-5:-3] == ["-", "-"]


def test_runs_of_one_algorithm_are_one_row(tmp_path):
    runs = [write_run(tmp_path / name, "lad", {0: (0.5, 2)}, prompts=2, samples=4) for name in ("s0", "s1")]
    (row,) = table(runs, tmp_path).splitlines()[2:]
    assert row.split()[:5] == ["lad", "0", "(base)", "2", "2"]


def test_figure_is_a_png_of_four_panels_a_benchmark(collapsing, diverse, tmp_path):
    figure = tmp_path / "new" / "figure.png"
    make_report([collapsing, diverse], tmp_path / "out", figure=figure)
    header = figure.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (1800, 420)


def test_figure_can_be_drawn_where_diversity_is_undefined(tmp_path):
    run = write_run(tmp_path / "run", "lad", {0: (0.5, 3)}, prompts=1, samples=4)
    make_report([run], tmp_path / "out", figure=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_figure_without_a_validation_is_said_not_to_be_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {"actor/entropy": 1.0}}\n')
    made = make_report([tmp_path], tmp_path / "out", figure=tmp_path / "figure.pdf")
    assert made.complaints == [f"{tmp_path / 'figure.pdf'}: not drawn, as the runs have no validation"]
    assert made.table == ""
    assert made.page == tmp_path / "out/report.html"


def test_run_without_validation_is_named_by_the_report(tmp_path):
    (tmp_path / "run.json").write_text('{"algo": "lad"}')
    made = make_report([tmp_path], tmp_path / "out")
    assert made.page is None
    (complaint,) = made.complaints
    assert complaint.startswith(f"{tmp_path}: no training metrics and no validation dump yet")


def test_of_base_is_a_dash_where_the_base_has_no_bound(tmp_path):
    """The base's solutions all differ, so nothing is a share of their number; later ones all agree."""
    run = write_run(tmp_path / "run", "lad", {0: (1.0, 10**9), 5: (1.0, 1)}, prompts=3, samples=8)
    base, later = table([run], tmp_path).splitlines()[2:4]
    assert base.split()[-5:-3] == ["inf", "-"]
    assert later.split()[-5:-3] == ["1.00", "-"]


def test_importing_the_package_needs_the_standard_library_and_numpy_alone():
    """The extra `report` is imported where it is used: for the page, for a file."""
    package = Path(verl_lad.evaluation.__file__).parent
    allowed = sys.stdlib_module_names | {"numpy"}
    used_late = {"matplotlib", "jinja2"}
    for path in package.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            for module in modules:
                inside = module.startswith("verl_lad.evaluation") or module == "verl_lad.version"
                late = module.split(".")[0] in used_late and node not in tree.body
                assert inside or late or module.split(".")[0] in allowed, f"{path.name} imports {module}"
