import base64
import json
import math
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from verl_lad.cli.main import main
from verl_lad.evaluation import load_runs, make_report
from verl_lad.evaluation.figures import COLOURS
from verl_lad.evaluation.tables import Cell, LastValidations

from .synthetic_runs import BENCHMARKS, EFFECT, STEPS, sample, write_lines, write_metrics, write_study

CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Tells the page around it how it was rendered; added to a copy, as the page itself has no script.
PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
    images: document.images.length,
    broken: [...document.images].filter(i => i.naturalWidth === 0).length,
    width: document.documentElement.clientWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}), "*"))</script>"""


def run_chromium(directory: Path, page: Path, *arguments: str) -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome to look at the page with: make browser installs one")
    profile = directory / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    done = subprocess.run(
        [browser, *CHROMIUM_FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def read_summary(directory: Path) -> dict:
    return json.loads((directory / "summary.json").read_text())


def read_report(runs: list[Path], output: Path) -> tuple[str, dict]:
    """The page and the summary, of files that can be read to their end."""
    made = make_report(runs, output)
    assert made.complaints == []
    return made.page.read_text(encoding="utf-8"), read_summary(output)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Report of three algorithms, two seeds of each, two benchmarks, four validations."""
    directory = tmp_path_factory.mktemp("study")
    write_study(directory / "runs")
    assert main(["report", str(directory / "runs"), "--output", str(directory / "out")]) == 0
    return directory / "out"


def write_tiny(path: Path, algo: str, counts: dict[str, list[int]], steps: tuple[int, ...] = (0,)) -> Path:
    """A run of four samples a problem; `counts` of them are correct and say "a b", others say "a c"."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"algo": algo}))
    for step in steps:
        entries = [
            sample(benchmark, f"problem {i}", "a b" if k < correct else "a c", float(k < correct), step)
            for benchmark, of_problems in counts.items()
            for i, correct in enumerate(of_problems)
            for k in range(4)
        ]
        write_lines(path / "validation" / f"{step}.jsonl", entries)
    return path


def test_numbers_of_a_small_study_equal_those_computed_by_hand(tmp_path):
    runs = [
        write_tiny(tmp_path / "s0", "x", {"one": [2, 4], "two": [1, 1]}),
        write_tiny(tmp_path / "s1", "x", {"one": [4, 0], "two": [3, 3]}),
    ]
    _, summary = read_report(runs, tmp_path / "out")
    found = {
        key: {benchmark: cells["x"]["value"] for benchmark, cells in columns.items() if "x" in cells}
        for key, columns in summary["last_validation"].items()
    }
    # shares of correct samples 2/4 4/4 | 4/4 0/4, and 1/4 1/4 | 3/4 3/4
    assert found["avg"] == pytest.approx({"one": 0.625, "two": 0.5, "mean of benchmarks": 0.5625})
    # 1 - C(2,2)/C(4,2) = 5/6, 1 | 1, 0, and 1 - C(3,2)/C(4,2) = 1/2 twice | 1, 1
    assert found["pass@2"] == pytest.approx({"one": 17 / 24, "two": 0.75, "mean of benchmarks": 35 / 48})
    assert found["pass@4"] == pytest.approx({"one": 0.75, "two": 1.0, "mean of benchmarks": 0.875})
    # of eight tokens three are distinct where both answers occur, two where one does
    assert found["dist_1"] == pytest.approx({"one": (3 / 8 + 2 / 8 + 2 / 8 + 2 / 8) / 4, "two": 3 / 8})
    assert found["dist_2"] == pytest.approx({"one": (2 / 4 + 1 / 4 + 1 / 4 + 1 / 4) / 4, "two": 2 / 4})
    assert found["mean_length"] == pytest.approx({"one": 2.0, "two": 2.0})
    assert found["distinct_solutions"] == pytest.approx({"one": 0.75, "two": 1.0})
    # where two are correct they agree; problem 1 of "one" has none in the second run, so problem 0 is shared
    assert found["effective_collision"]["one"] == 1.0
    assert summary["last_validation"]["effective_collision"]["one"]["x"]["problems"] == 1
    assert "one" not in found["effective_solutions"]  # fewer than ten correct samples
    first = summary["runs"][0]["validations"]
    assert [(v["benchmark"], v["step"], v["problems"], v["samples"]) for v in first] == [
        ("one", 0, 2, 8),
        ("two", 0, 2, 8),
    ]
    assert [v["avg"] for v in first] == [0.75, 0.25]


def test_best_is_bold_only_if_it_is_told_from_every_other(tmp_path):
    """ "b" solves one sample more of each problem than "a" does; "c" is as good as "b" but on other problems."""
    counts = {"a": [1, 2] * 8, "b": [2, 3] * 8, "c": [3, 2] * 8}
    runs = {algo: write_tiny(tmp_path / algo, algo, {"one": of}) for algo, of in counts.items()}
    last = LastValidations(load_runs([runs["a"], runs["b"]]))
    (table, *_) = last.accuracy_tables()
    assert [[cell.mark for cell in cells] for _, _, cells in table.rows] == [[""], ["best"]]
    assert {a: cell["mark"] for a, cell in last.numbers["avg"]["one"].items()} == {"a": "", "b": "best"}
    last = LastValidations(load_runs(list(runs.values())))
    last.accuracy_tables()
    assert {a: cell["mark"] for a, cell in last.numbers["avg"]["one"].items()} == {"a": "", "b": "tie", "c": "tie"}


def test_nothing_is_told_apart_on_fewer_than_ten_problems(tmp_path):
    runs = [write_tiny(tmp_path / algo, algo, {"one": [c] * 9}) for algo, c in (("a", 0), ("b", 4))]
    (table, *_) = LastValidations(load_runs(runs)).accuracy_tables()
    assert [cells[0].mark for _, _, cells in table.rows] == ["tie", "tie"]


def test_a_lost_sample_costs_its_problem_alone_the_largest_k(tmp_path):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2, 4]})
    dump = run / "validation/0.jsonl"
    dump.write_text(dump.read_text().rpartition("{")[0])
    (*_, table) = LastValidations(load_runs([run])).accuracy_tables()
    assert table.caption == "Pass@4, %"
    assert table.columns == ["one (n = 3–4)"]
    assert table.rows == [("x", 1, [Cell("100.0", "100.0–100.0", "", "2 of 3 problems")])]


def test_best_of_the_study_is_bold_on_the_page(study):
    columns = read_summary(study)["last_validation"]["dist_3"]["MATH500"]
    values = {algorithm: cell["value"] for algorithm, cell in columns.items()}
    assert max(values, key=values.get) == "lad"
    assert columns["lad"]["mark"] == "best"
    assert f'<td class="best">{values["lad"]:.3f}' in (study / "report.html").read_text(encoding="utf-8")


def test_study_recovers_what_its_runs_were_made_of(study):
    summary = read_summary(study)
    assert [run["seed"] for run in summary["runs"]] == [0, 1] * 3
    assert {run["algorithm"] for run in summary["runs"]} == set(EFFECT)
    for algorithm, (_, left) in EFFECT.items():
        found = summary["last_validation"]["effective_solutions"]["MATH500"][algorithm]
        assert found["value"] == pytest.approx(left, rel=0.1)
        assert found["low"] < found["value"] < found["high"]
        assert found["runs"] == 2
    steps = [v["step"] for v in summary["runs"][0]["validations"] if v["benchmark"] == "MATH500"]
    assert steps == list(STEPS)
    assert summary["complaints"] == []


def test_page_is_one_file_that_loads_nothing(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page


def test_embedded_figures_are_the_ones_beside_the_page(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    embedded = [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    files = {path.stem: path.read_bytes() for path in (study / "figures").glob("*.png")}
    assert set(files) == {"accuracy", "pass_at_k", "frontier", "diversity", "training", "lad", "verl_validation"}
    assert sorted(embedded) == sorted(files.values())
    assert all(data.startswith(b"\x89PNG") for data in embedded)


def test_every_entry_of_the_contents_has_its_section(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="#([^"]+)"', page):
        assert page.count(f'id="{target}"') == 1, target
    for words in ("Dist‑4", "Pass@16", "Share of base", "arXiv 2107.03374", "pigeonhole bootstrap"):
        assert words in page


@pytest.mark.parametrize("width", [1200, 400])
def test_browser_shows_every_figure_without_sideways_scrolling(study, tmp_path, width):
    page = (study / "report.html").read_text(encoding="utf-8")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert len(policy.findall(page)) == 1
    (tmp_path / "copy.html").write_text(policy.sub("", page).replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        "<script>addEventListener('message', e => { document.body.textContent = e.data })</script>"
        f"<body><iframe src='copy.html' style='width: {width}px; height: 900px; border: 0'></iframe>"
    )
    dom = run_chromium(tmp_path, tmp_path / "frame.html", "--virtual-time-budget=10000", "--dump-dom")
    shown = json.loads(re.search(r"<body>(\{.*\})", dom).group(1))
    assert shown == {"images": 7, "broken": 0, "width": width, "overflow": 0}


def test_screenshot_shows_text_and_the_colour_of_every_algorithm(study, tmp_path):
    shot = tmp_path / "page.png"
    run_chromium(tmp_path, study / "report.html", "--window-size=1200,6000", f"--screenshot={shot}")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1200, 6000)
    pixels = np.round(image.imread(shot)[:, :, :3] * 255).astype(int).reshape(-1, 3)
    assert 0.5 < np.mean(np.all(pixels > 250, axis=1)) < 0.99  # paper, and something on it
    for colour in COLOURS[: len(EFFECT)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.sum(np.all(np.abs(pixels - wanted) < 8, axis=1)) > 1000, colour


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} & $\\frac{1}{$ \x00 _"


def test_hostile_text_is_shown_as_text(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"algo": HOSTILE, "name": HOSTILE, "verl": HOSTILE}))
    entries = [sample(HOSTILE, HOSTILE, f"{HOSTILE} {i}", 1.0, 0) for i in range(3)]
    write_lines(path / "validation/0.jsonl", entries)
    metrics = [{"step": s, "data": {f"actor/lad/{HOSTILE}": 1.0, f"val-core/{HOSTILE}/mean@1": 2.0}} for s in (0, 1)]
    write_lines(path / "metrics.jsonl", metrics)
    with (path / "validation/0.jsonl").open("a") as file:
        file.write(json.dumps({"input": HOSTILE, "output": HOSTILE, "score": HOSTILE}))
    made = make_report([path], tmp_path / "out")
    html = made.page.read_text("utf-8")
    (complaint,) = made.complaints
    assert f"got {HOSTILE!r:.30}" in complaint
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "7 * 7" in html
    assert html.count("&lt;script&gt;alert(1)") >= 6  # name, algorithm, verl, benchmark, prompt, answer, problem


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    write_lines(tmp_path / "run/validation/0.jsonl", [])
    line = '{"input": "p", "output": "\\ud83d", "score": 1}\n'
    (tmp_path / "run/validation/0.jsonl").write_text(line * 2)
    page, _ = read_report([tmp_path / "run"], tmp_path / "out")
    assert "<code>?</code>" in page


def test_run_with_metrics_alone_has_its_curves_and_says_what_is_missing(tmp_path):
    write_metrics(tmp_path / "run/metrics.jsonl", "grpo", 0)
    page, summary = read_report([tmp_path / "run"], tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out/figures").iterdir()} == {"training", "verl_validation"}
    assert "run: no validation dumps." in page
    assert 'id="accuracy-tables"' not in page
    assert summary["runs"][0]["metrics"]["critic/score/mean"]["60"] == pytest.approx(0.55, abs=0.1)


def test_run_with_dumps_alone_has_its_tables_and_says_what_is_missing(tmp_path):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2, 3]}, steps=(0, 5))
    page, _ = read_report([run], tmp_path / "out")
    assert "x: no training metrics." in page
    assert 'id="accuracy-tables"' in page
    assert 'id="training-curves"' not in page


def test_runs_that_were_validated_at_different_steps_and_benchmarks_are_side_by_side(tmp_path):
    runs = [
        write_tiny(tmp_path / "a", "x", {"one": [1, 2], "two": [3, 3]}, steps=(0, 5, 10)),
        write_tiny(tmp_path / "b", "x", {"one": [1, 2]}, steps=(5,)),
        write_tiny(tmp_path / "c", "y", {"two": [1, 2]}, steps=(0, 7)),
    ]
    write_metrics(tmp_path / "d" / "metrics.jsonl", "lad", 0)
    (complaint,) = make_report([*runs, tmp_path / "d"], tmp_path / "out").complaints
    assert "steps [5] but none of step 0" in complaint
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "The runs’ last validations are at different steps: 10 (x (" in page
    avg = read_summary(tmp_path / "out")["last_validation"]["avg"]
    assert {benchmark: {a: cell["runs"] for a, cell in column.items()} for benchmark, column in avg.items()} == {
        "one": {"x": 2},
        "two": {"x": 1, "y": 1},
        "mean of benchmarks": {"x": 2},
    }


def test_seeds_with_problems_of_their_own_are_pooled_and_named(tmp_path):
    runs = [write_tiny(tmp_path / f"s{i}", "x", {"one": [1 + i] * 3}) for i in (0, 1)]
    text = (runs[1] / "validation/0.jsonl").read_text()
    (runs[1] / "validation/0.jsonl").write_text(text.replace("problem", "question"))
    page, summary = read_report(runs, tmp_path / "out")
    assert summary["last_validation"]["avg"]["one"]["x"] == pytest.approx(
        {"value": 0.375, "low": 0.29, "high": 0.46, "problems": 6, "runs": 2, "mark": ""}, abs=0.02
    )
    assert "the runs have different problems (6 in all)" in page


def test_undefined_and_unbounded_numbers_are_null_in_the_summary(tmp_path):
    entries = [sample(None, "p", f"answer {i}", 1.0, 0) for i in range(3)]
    write_lines(tmp_path / "run/validation/0.jsonl", entries)
    page, summary = read_report([tmp_path / "run"], tmp_path / "out")
    assert summary["last_validation"]["effective_collision"]["validation"]["run"]["value"] is None
    assert "∞" in page


def test_examples_count_the_correct_solutions_of_an_algorithm_over_its_runs(tmp_path):
    runs = []
    for name, outputs in (("s0", ["x=1", "x=1", "x=2"]), ("s1", ["x=1", "no", "no"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"algo": "lad"}')
        entries = [sample(None, "solve", text, float(text != "no"), 0) for text in outputs]
        write_lines(tmp_path / name / "validation/0.jsonl", entries)
        runs.append(tmp_path / name)
    page, _ = read_report(runs, tmp_path / "out")
    assert "2 distinct among 4 correct of 6 samples" in page
    assert re.findall(r"<li><span>(\d) ×</span><code>(.*?)</code>", page) == [("3", "x=1"), ("1", "x=2")]


def test_command_keeps_what_is_readable_names_the_rest_and_exits_with_one(tmp_path, capsys):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2]}, steps=(0, 5))
    with (run / "validation/5.jsonl").open("a") as file:
        file.write('{"input": "problem 9", "outp')
    status = main(["report", str(run), str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out.count("\nx ") == 2
    for words in (f"{run}/validation/5.jsonl, line 9: malformed JSON", "nowhere: no such run directory"):
        assert words in printed.err
        assert words in (tmp_path / "out/report.html").read_text("utf-8")
        assert any(words in complaint for complaint in read_summary(tmp_path / "out")["complaints"])


def test_command_exits_with_two_where_nothing_is_usable(tmp_path, capsys):
    (tmp_path / "run/validation").mkdir(parents=True)
    (tmp_path / "run/validation/0.jsonl").write_text("foreign\n")
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 2
    assert "0.jsonl, line 1: malformed JSON" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_draws_the_overlay_of_the_demo(tmp_path, capsys):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2]}, steps=(0, 5))
    arguments = ["report", str(run), "--output", str(tmp_path / "out"), "--figure", str(tmp_path / "figure.png")]
    assert main(arguments) == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert f"page: {tmp_path / 'out/report.html'}" in capsys.readouterr().out


def test_mean_of_benchmarks_has_the_interval_of_independent_parts(study):
    """Standard errors of independent parts add in squares; the ends are bootstrapped, so to 10 % of the width."""
    columns = read_summary(study)["last_validation"]["avg"]
    for algorithm in EFFECT:
        parts = [columns[benchmark][algorithm] for benchmark in BENCHMARKS]
        whole = columns["mean of benchmarks"][algorithm]
        assert whole["value"] == pytest.approx(sum(part["value"] for part in parts) / 2)
        width = math.hypot(*(part["high"] - part["low"] for part in parts)) / 2
        assert whole["high"] - whole["low"] == pytest.approx(width, rel=0.1)
        assert whole["low"] < whole["value"] < whole["high"]


def report_of(tmp_path: Path, capsys: pytest.CaptureFixture, run: Path, *options: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command."""
    capsys.readouterr()
    status = main(["report", str(run), "--output", str(tmp_path / "out"), *options])
    return status, *capsys.readouterr()


def graded_run(path: Path) -> Path:
    """Scores of 0.2 to 0.9, and a key that says which are right."""
    entries = [sample(None, f"p{i}", f"o{k}", 0.0, 0) for i in range(3) for k in range(4)]
    for number, entry in enumerate(entries):
        entry |= {"acc": None, "score": (0.2, 0.4, 0.7, 0.9)[number % 4], "passed": number % 4 > 0}
    write_lines(path / "validation/0.jsonl", entries)
    return path


def test_command_says_that_scores_below_one_do_not_tell_which_are_right(tmp_path, capsys):
    status, out, err = report_of(tmp_path, capsys, graded_run(tmp_path / "run"))
    assert status == 1
    assert out.splitlines()[2].split()[:4] == ["run", "0", "(base)", "0.000"]
    assert '"acc" (or "score") on validation is from 0.2 to 0.9' in err
    assert "--threshold says from where on it is, --correct-key names another key" in err


@pytest.mark.parametrize(
    ("options", "accuracy"),
    [
        (["--threshold", "0.5"], "0.500"),
        (["--threshold", "0.9"], "0.250"),
        (["--correct-key", "passed"], "0.750"),
        (["--correct-key", "score", "--threshold=-1"], "1.000"),
    ],
)
def test_command_takes_the_key_and_the_threshold_of_right(tmp_path, capsys, options, accuracy):
    status, out, err = report_of(tmp_path, capsys, graded_run(tmp_path / "run"), *options)
    assert (status, "complaint" in err) == (0, False)
    assert out.splitlines()[2].split()[3] == accuracy


def test_command_names_a_key_that_no_line_has(tmp_path, capsys):
    status, _, err = report_of(tmp_path, capsys, graded_run(tmp_path / "run"), "--correct-key", "right")
    assert status == 2
    assert '0.jsonl, line 1: the key "right" must be a finite number, at most 1e+300, got None' in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "nan"], "argument --threshold: 'nan' is not a finite number"),
        (["--threshold", "half"], "argument --threshold: 'half' is not a finite number"),
        (["--figure", "figure.xyz"], "argument --figure: the suffix of 'figure.xyz' must be one of .png, .pdf, .svg"),
    ],
)
def test_command_refuses_impossible_options_before_it_reads(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit, match="2"):
        report_of(tmp_path, capsys, graded_run(tmp_path / "run"), *options)
    assert words in capsys.readouterr().err


def test_command_merges_the_copies_of_a_row_if_told_so(tmp_path, capsys):
    """As in files that repeat each row 32 times in place of val_kwargs.n=32."""
    uids = [f"00000000-0000-4000-8000-{i:012x}_0_0" for i in range(8)]
    entries = [sample(None, f"p{i % 2}", "o", float(i < 4), 0, uid=uid) for i, uid in enumerate(uids)]
    write_lines(tmp_path / "run/validation/0.jsonl", entries)
    status, out, err = report_of(tmp_path, capsys, tmp_path / "run")
    assert (status, out.splitlines()[2].split()[-1]) == (1, "0/0/8")
    assert "8 problems share input and truth with another one of another uid" in err
    assert "--merge-copies" in err
    status, out, err = report_of(tmp_path, capsys, tmp_path / "run", "--merge-copies")
    assert (status, out.splitlines()[2].split()[-1], "complaint" in err) == (0, "0/2/2", False)


@pytest.mark.parametrize("option", ["--output", "--figure"])
def test_command_names_a_place_that_cannot_be_written_before_it_reads(tmp_path, capsys, option):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2]})
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / ("out" if option == "--output" else "figure.png")
    status, out, err = report_of(tmp_path, capsys, run, option, str(place))
    assert (status, out) == (2, "")
    assert err.startswith("verl-lad report: ")
    assert f"cannot be written, as {tmp_path / 'file'} is not a directory" in err
    assert not (tmp_path / "out").exists()


def test_command_names_what_it_could_not_write(tmp_path, capsys):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2]})
    (tmp_path / "out/report.html").mkdir(parents=True)
    status, _, err = report_of(tmp_path, capsys, run)
    assert status == 2
    assert err.splitlines()[-1].startswith("verl-lad report: ")
    assert str(tmp_path / "out/report.html") in err.splitlines()[-1]
