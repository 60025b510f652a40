import base64
import json
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
from verl_lad.evaluation.records import refuse
from verl_lad.evaluation.table import columns, make_rows, show

from .synthetic_runs import EFFECT, STEPS, sample, write_lines, write_metrics, write_study

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


def values_of(summary: dict, step: int, algorithm: str) -> dict[str, dict[str, float]]:
    """The measures of an algorithm at a step, by benchmark."""
    return {
        row["benchmark"]: {key: found["value"] for key, found in row["estimates"].items()}
        for row in summary["rows"]
        if (row["step"], row["algorithm"]) == (step, algorithm)
    }


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
    one, two = values_of(summary, 0, "x").values()
    # shares of correct samples 2/4 4/4 | 4/4 0/4, and 1/4 1/4 | 3/4 3/4
    assert (one["avg"], two["avg"]) == pytest.approx((0.625, 0.5))
    # 1 - C(2,2)/C(4,2) = 5/6, 1 | 1, 0, and 1 - C(3,2)/C(4,2) = 1/2 twice | 1, 1
    assert (one["pass@2"], two["pass@2"]) == pytest.approx((17 / 24, 0.75))
    assert (one["pass@4"], two["pass@4"]) == pytest.approx((0.75, 1.0))
    # of eight tokens three are distinct where both answers occur, two where one does
    assert (one["dist_1"], two["dist_1"]) == pytest.approx(((3 / 8 + 2 / 8 + 2 / 8 + 2 / 8) / 4, 3 / 8))
    assert (one["dist_2"], two["dist_2"]) == pytest.approx(((2 / 4 + 1 / 4 + 1 / 4 + 1 / 4) / 4, 2 / 4))
    assert (one["mean_length"], two["mean_length"]) == pytest.approx((2.0, 2.0))
    assert (one["distinct_solutions"], two["distinct_solutions"]) == pytest.approx((0.75, 1.0))
    # where two are correct they agree; problem 1 of "one" has none in the second run, so problem 0 is shared
    assert one["effective_solutions"] == 1.0
    assert summary["rows"][0]["estimates"]["effective_solutions"]["problems"] == 1
    first = [[row[key] for key in ("benchmark", "step", "runs", "problems", "samples")] for row in summary["rows"]]
    assert first == [["one", 0, 2, 2, 16], ["two", 0, 2, 2, 16]]


def test_a_lost_sample_costs_its_problem_alone_the_largest_k(tmp_path):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2, 4]})
    dump = run / "validation/0.jsonl"
    dump.write_text(dump.read_text().rpartition("{")[0])
    (row,) = rows = make_rows(load_runs([run]), refuse)
    measure = columns(rows)[1]
    assert (measure.title, *show(measure, row)) == ("Pass@4", "1.000", "1.000-1.000")
    assert (row.problems, row.estimates["pass@4"].problems) == (3, 2)


def test_study_recovers_what_its_runs_were_made_of(study):
    summary = read_summary(study)
    assert [run["seed"] for run in summary["runs"]] == [0, 1] * 3
    assert {run["algorithm"] for run in summary["runs"]} == set(EFFECT)
    for algorithm, (_, left) in EFFECT.items():
        (row,) = (
            row
            for row in summary["rows"]
            if (row["algorithm"], row["benchmark"], row["step"]) == (algorithm, "MATH500", 60)
        )
        found = row["estimates"]["effective_solutions"]
        assert found["value"] == pytest.approx(left, rel=0.1)
        assert found["low"] < found["value"] < found["high"]
        assert row["runs"] == 2
    assert [run["validations"] for run in summary["runs"]] == [list(STEPS)] * 6
    assert summary["complaints"] == []


def test_page_is_one_file_that_loads_nothing(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page


def test_page_has_both_figures_and_says_what_its_numbers_are(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    embedded = [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert [data[:4] for data in embedded] == [b"\x89PNG"] * 2
    for target in re.findall(r'href="#([^"]+)"', page):
        assert page.count(f'id="{target}"') == 1, target
    for words in ("Dist-3", "Pass@16", "Of base", "arXiv 2107.03374", "pigeonhole bootstrap"):
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
    assert shown == {"images": 2, "broken": 0, "width": width, "overflow": 0}


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
    (path / "run.json").write_text(json.dumps({"algo": HOSTILE}))
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
    assert html.count("&lt;script&gt;alert(1)") == 4  # algorithm of the run and of the row, benchmark, complaint


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    line = '{"input": "p", "output": "o", "benchmark": "b\\ud83d", "score": 1}\n'
    (tmp_path / "run/validation").mkdir(parents=True)
    (tmp_path / "run/validation/0.jsonl").write_text(line * 2)
    page, _ = read_report([tmp_path / "run"], tmp_path / "out")
    assert '<td class="text">b?</td>' in page


def test_run_with_metrics_alone_has_its_curves_and_says_what_is_missing(tmp_path):
    write_metrics(tmp_path / "run/metrics.jsonl", "grpo", 0)
    page, summary = read_report([tmp_path / "run"], tmp_path / "out")
    assert 'id="training"' in page
    assert 'id="validations"' not in page
    assert '<td class="text">run</td><td>-</td><td>60</td><td class="text">-</td>' in page
    assert summary["runs"][0]["metrics"]["critic/score/mean"]["60"] == pytest.approx(0.55, abs=0.1)


def test_run_with_dumps_alone_has_its_tables_and_says_what_is_missing(tmp_path):
    run = write_tiny(tmp_path / "run", "x", {"one": [1, 2, 3]}, steps=(0, 5))
    page, _ = read_report([run], tmp_path / "out")
    assert 'id="validations"' in page
    assert 'id="training"' not in page
    assert '<td class="text">x</td><td>-</td><td>-</td><td class="text">0, 5</td>' in page


def test_runs_that_were_validated_at_different_steps_and_benchmarks_are_side_by_side(tmp_path):
    runs = [
        write_tiny(tmp_path / "a", "x", {"one": [1, 2], "two": [3, 3]}, steps=(0, 5, 10)),
        write_tiny(tmp_path / "b", "x", {"one": [1, 2]}, steps=(5,)),
        write_tiny(tmp_path / "c", "y", {"two": [1, 2]}, steps=(0, 7)),
    ]
    write_metrics(tmp_path / "d" / "metrics.jsonl", "lad", 0)
    (complaint,) = make_report([*runs, tmp_path / "d"], tmp_path / "out").complaints
    assert "steps [5] but none of step 0" in complaint
    rows = read_summary(tmp_path / "out")["rows"]
    assert [(row["algorithm"], row["benchmark"], row["step"], row["runs"]) for row in rows] == [
        *(("x", "one", step, runs) for step, runs in ((0, 1), (5, 2), (10, 1))),
        *(("x", "two", step, 1) for step in (0, 5, 10)),
        *(("y", "two", step, 1) for step in (0, 7)),
    ]


def test_seeds_with_problems_of_their_own_are_pooled_and_named(tmp_path):
    runs = [write_tiny(tmp_path / f"s{i}", "x", {"one": [1 + i] * 3}) for i in (0, 1)]
    text = (runs[1] / "validation/0.jsonl").read_text()
    (runs[1] / "validation/0.jsonl").write_text(text.replace("problem", "question"))
    (complaint,) = make_report(runs, tmp_path / "out").complaints
    (row,) = read_summary(tmp_path / "out")["rows"]
    expected = {"value": 0.375, "low": 0.29, "high": 0.46, "problems": 6}
    assert row["estimates"]["avg"] == pytest.approx(expected, abs=0.02)
    assert row["runs"] == 2
    assert complaint == "x on one, step 0: the 2 runs have different problems, 6 in all; none is shared, so all count"


def test_problems_that_not_all_seeds_have_are_left_out_and_said(tmp_path):
    runs = [write_tiny(tmp_path / f"s{i}", "x", {"one": [2] * (3 + i)}) for i in (0, 1)]
    (complaint,) = make_report(runs, tmp_path / "out").complaints
    assert complaint.endswith("the 2 runs have different problems, 4 in all; the 3 that all have count")
    assert read_summary(tmp_path / "out")["rows"][0]["problems"] == 3


def test_undefined_and_unbounded_numbers_are_null_in_the_summary(tmp_path):
    entries = [sample(None, "p", f"answer {i}", 1.0, 0) for i in range(3)]
    write_lines(tmp_path / "run/validation/0.jsonl", entries)
    page, summary = read_report([tmp_path / "run"], tmp_path / "out")
    assert values_of(summary, 0, "run")["validation"]["effective_solutions"] is None
    assert "<td>inf" in page


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
    assert out.splitlines()[2].split()[:6] == ["run", "0", "(base)", "1", "3", "0.000"]
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
    assert out.splitlines()[2].split()[5] == accuracy


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
    assert (status, out.splitlines()[2].split()[4]) == (1, "8")
    assert "8 problems share input and truth with another one of another uid" in err
    assert "--merge-copies" in err
    status, out, err = report_of(tmp_path, capsys, tmp_path / "run", "--merge-copies")
    assert (status, out.splitlines()[2].split()[4], "complaint" in err) == (0, "2", False)


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
