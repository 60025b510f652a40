"""The JSON, the table and the figure of a short run."""

import json
import math
import sys

import pytest

from verl_lad.bandit import BanditConfig, draw_figure, format_table, run_bandit
from verl_lad.bandit.problem import HEIGHTS, all_methods
from verl_lad.bandit.run import BEHAVIOURS, EXPECTATIONS, MEASURES

from .results import last

NAMES = list(all_methods(0.25))


@pytest.fixture(scope="module")
def result():
    return run_bandit(BanditConfig(seeds=2, steps=40))


def test_json_has_the_settings_the_provenance_and_every_run_once(result):
    document = json.loads(json.dumps(result, allow_nan=False))
    assert list(document) == [
        *("configuration", "versions", "hardware", "seconds"),
        *("scores", "initial_policy", "target_policy", "trace_steps", "runs"),
    ]
    configuration = document["configuration"]
    assert {key: configuration[key] for key in ("eta", "seeds", "steps", "arms", "learning_rate", "optimiser")} == {
        **{"eta": 0.25, "seeds": 2, "steps": 40, "arms": 50},
        **{"learning_rate": 5e-3, "optimiser": "Adam"},
    }
    assert list(configuration["methods"]) == NAMES
    assert configuration["methods"]["lad-js-anchored"]["lad"]["anchor"] == "reference"
    assert set(document["versions"]) == {"verl_lad", "torch", "python"}
    assert set(document["hardware"]) == {"processor", "threads"}
    assert document["seconds"] > 0
    assert document["trace_steps"] == list(range(41))
    keys = [
        (run["method"], run["expectation"], run["heights"], run["behaviour"], run["seed"]) for run in document["runs"]
    ]
    assert len(keys) == len(set(keys)) == len(NAMES) * 2 * 2 * 2 * 2
    assert set(keys) == {
        (n, e, h, b, seed) for n in NAMES for e in EXPECTATIONS for h in HEIGHTS for b in BEHAVIOURS for seed in (0, 1)
    }
    for run in document["runs"]:
        assert sum(run["final_policy"]) == pytest.approx(1.0, abs=1e-4)
        assert list(run["trace"]) == list(MEASURES)
        assert all(len(values) == 41 for values in run["trace"].values())
        target = document["target_policy"][run["heights"]][run["seed"]]
        distance = 0.5 * math.fsum(abs(p - q) for p, q in zip(run["final_policy"], target, strict=True))
        assert run["trace"]["total_variation"][-1] == pytest.approx(distance, abs=1e-4)


def test_table_has_a_row_of_the_last_step_for_each_method_and_landscape(result):
    lines = format_table(result).splitlines()
    for heights in HEIGHTS:
        (start,) = (i for i, line in enumerate(lines) if line.startswith(f"three modes of {heights} heights"))
        rows = [line.split() for line in lines[start + 4 : start + 5 + len(NAMES)]]
        assert [row[0] for row in rows] == ["untrained", *NAMES]
        js = rows[1]
        distance = last(result, "total_variation", "lad-js", "sampled", "refreshed", heights)
        assert js[-4:-1] == [f"{distance.mean():.3f}", "±", f"{distance.std():.3f}"]
    assert sum("2 seeds" in line for line in lines) == 1
    assert max(map(len, lines)) <= 120


def test_one_seed_has_no_spread():
    table = format_table(run_bandit(BanditConfig(seeds=1, steps=1)))
    assert "± -" in table
    assert "nan" not in table


def test_figure_is_drawn(result, tmp_path):
    draw_figure(result, tmp_path / "bandit.png")
    png = (tmp_path / "bandit.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 50_000


def test_figure_without_matplotlib_says_what_to_install(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'verl-lad\[report\]'"):
        draw_figure(result, tmp_path / "bandit.png")
