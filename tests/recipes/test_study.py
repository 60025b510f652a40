"""The study of recipes/study: its tasks, its exact measures, its plan, and what its analysis makes of results."""

import ast
import collections
import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from .modules import load_modules

RECIPES = Path(__file__).parents[2] / "recipes"
STUDY = RECIPES / "study"
MODULES = ("tasks", "policy", "bases", "plan", "results", "curves", "analyse", "measure")
TASK_NAMES = ("digits", "expression", "path", "long_path")


@pytest.fixture(scope="module")
def study():
    """Load the study's modules, as attributes."""
    return load_modules(MODULES, STUDY, RECIPES / "cpu_demo")


@pytest.fixture(scope="module")
def tokenizer(study):
    return study.policy.make_tokenizer()


@pytest.fixture(scope="module")
def small_task(study):
    return {
        "9=": study.tasks.Answers(("009", "018", "090", "117"), ("000",)),
        "10=": study.tasks.Answers(("91", "19"), ("1", "99")),
    }


@pytest.fixture(scope="module")
def model(study, tokenizer):
    torch.manual_seed(0)
    model = study.policy.make_model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform
    return model.eval()


# --- tasks


def test_digits_right_answers_are_all_strings_of_three_digits_with_the_sum(study):
    for prompt, answers in study.tasks.get_task("digits").items():
        total = int(prompt.removesuffix("="))
        brute = {f"{n:03d}" for n in range(1000) if n // 100 + n // 10 % 10 + n % 10 == total}
        assert set(answers.right) == brute


def evaluate(node):
    """Evaluate an expression a second way, on Python's syntax tree."""
    if isinstance(node, ast.Constant):
        return node.value
    left, right = evaluate(node.left), evaluate(node.right)
    if isinstance(node.op, ast.Mult):
        return left * right
    return left + right if isinstance(node.op, ast.Add) else left - right


def test_expression_right_answers_are_all_that_use_each_digit_once_and_hit_the_target(study):
    for prompt, answers in study.tasks.get_task("expression").items():
        numbers, target = prompt.removesuffix("=").split(">")
        brute = set()
        for a, b, c, d in itertools.product(numbers, repeat=4):
            if len({a, b, c, d}) < 4:
                continue
            for p, q, r in itertools.product("+-*", repeat=3):
                text = a + p + b + q + c + r + d
                if evaluate(ast.parse(text, mode="eval").body) == int(target):
                    brute.add(text)
        assert set(answers.right) == brute


def walks(size, walls, moves, longest):
    """All simple ways from corner to corner, breadth first, as a level of (cell, visited, text) after another."""
    level = [((0, 0), ((0, 0),), "")]
    for _ in range(longest + 1):
        following = []
        for cell, visited, text in level:
            if cell == (size - 1, size - 1):
                yield text
                continue
            for move in moves:
                row = cell[0] + {"D": 1, "U": -1}.get(move, 0)
                column = cell[1] + {"R": 1, "L": -1}.get(move, 0)
                inside = row in range(size) and column in range(size)
                if inside and (row, column) not in walls and (row, column) not in visited:
                    following.append(((row, column), (*visited, (row, column)), text + move))
        level = following


@pytest.mark.parametrize(("name", "size", "moves", "longest"), [("path", 4, "UDLR", 10), ("long_path", 7, "DR", 12)])
def test_grid_right_answers_are_all_simple_ways_round_the_walls(study, name, size, moves, longest):
    for prompt, answers in study.tasks.get_task(name).items():
        walls = {(int(cell[0]), int(cell[1])) for cell in prompt.removesuffix(":").split(",")}
        assert set(answers.right) == set(walks(size, walls, moves, longest))


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_tasks_answers_are_distinct_and_wrong_ones_are_not_right(study, name):
    task = study.tasks.get_task(name)
    assert len(task) == (4 if name == "long_path" else 8)
    for answers in task.values():
        assert len(set(answers.right)) == len(answers.right)
        assert answers.wrong
        assert not set(answers.wrong) & set(answers.right)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_tasks_answers_fit_the_responses_length(study, tokenizer, name):
    longest = max(len(tokenizer.encode(a)) for answers in study.tasks.get_task(name).values() for a in answers.right)
    assert longest + 1 <= 16  # run_study.sh, data.max_response_length


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_score_is_one_for_right_answers_alone(study, name):
    score = study.tasks.compute_score
    for prompt, answers in study.tasks.get_task(name).items():
        assert all(score(name, answer, prompt) == {"score": 1.0, "acc": 1.0} for answer in answers.right)
        assert all(score(name, answer, prompt) == {"score": 0.0, "acc": 0.0} for answer in answers.wrong)
        right, eos = answers.right[0], study.tasks.EOS
        assert score(name, right + eos, prompt)["score"] == 1.0
        for near in (f" {right}", f"{right} ", f"{right}\n", f"{right} {eos}", right + eos + eos, right[:-1], "", eos):
            assert score(name, near, prompt)["score"] == 0.0


def test_an_unknown_task_is_refused_by_name(study):
    with pytest.raises(ValueError, match=r"task='sums' is not allowed: digits"):
        study.tasks.get_task("sums")


# --- encoding and exact statistics


def test_encode_is_verls_chat_encoding_and_the_answer_with_its_end(study, tokenizer, small_task):
    from verl.utils.tokenizer import normalize_token_ids

    encoded = study.policy.encode_right(small_task, tokenizer)
    expected = []
    for prompt, answers in small_task.items():
        chat = [{"role": "user", "content": prompt}]
        head = normalize_token_ids(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True))
        expected += [(head, [*tokenizer.encode(answer), tokenizer.eos_token_id]) for answer in answers.right]
    assert len(expected) == len(encoded.ids)
    for row, mask, (head, tail) in zip(encoded.ids, encoded.answer_mask, expected, strict=True):
        length = len(head) + len(tail)
        assert row[:length].tolist() == head + tail
        assert (row[length:] == tokenizer.pad_token_id).all()
        assert mask.nonzero().flatten().tolist() == list(range(len(head), length))
    assert encoded.prompt.tolist() == [0, 0, 0, 0, 1, 1]


def test_exact_statistics_equal_the_product_of_one_token_at_a_time(study, tokenizer, small_task, model):
    found = study.policy.exact_statistics(model, study.policy.encode_right(small_task, tokenizer), rows_at_once=4)
    for index, (prompt, answers) in enumerate(small_task.items()):
        chat = [{"role": "user", "content": prompt}]
        probabilities = []
        for answer in answers.right:
            ids = tokenizer.encode(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
            probability = 1.0
            for token in [*tokenizer.encode(answer), tokenizer.eos_token_id]:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
                probability *= float(torch.softmax(logits, 0)[token])
                ids.append(token)
            probabilities.append(probability)
        among = np.array(probabilities) / sum(probabilities)
        assert found["accuracy"][index] == pytest.approx(sum(probabilities), rel=1e-4)
        assert found["entropy"][index] == pytest.approx(-(among * np.log(among)).sum(), rel=1e-4)
        assert found["collision"][index] == pytest.approx((among**2).sum(), rel=1e-4)


def test_exact_statistics_agree_with_samples(study, tokenizer):
    """A model that answers one of three one-token answers, or anything else."""
    task = {"a": study.tasks.Answers(("1", "2", "3"), ())}
    torch.manual_seed(1)
    model = study.policy.make_model(tokenizer)
    encoded = study.policy.encode_right(task, tokenizer)
    targets = study.bases.next_token_targets(encoded, torch.tensor([0.5, 0.3, 0.2]), model.config.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        log_prob = model(input_ids=encoded.ids).logits.log_softmax(-1)
        optimizer.zero_grad()
        (-(targets * log_prob[:, :-1]).sum()).backward()
        optimizer.step()
    exact = study.policy.exact_statistics(model, encoded)

    count = 20_000
    head = encoded.ids[0, : int(encoded.answer_mask[0].nonzero()[0])]
    with torch.no_grad():
        first = model(input_ids=head[None]).logits[0, -1].softmax(-1)
        tokens, times = torch.multinomial(first, count, replacement=True).unique(return_counts=True)
        rows = torch.cat([head.expand(len(tokens), -1), tokens[:, None]], 1)
        second = model(input_ids=rows).logits[:, -1].softmax(-1)
    ended = torch.distributions.Binomial(times.float(), second[:, tokenizer.eos_token_id]).sample()
    drawn = {int(token): int(n) for token, n in zip(tokens, ended, strict=True)}
    right = np.array([drawn.get(tokenizer.encode(answer)[0], 0) for answer in ("1", "2", "3")])
    p = exact["accuracy"][0]
    assert 0.05 < p < 0.999
    assert abs(right.sum() / count - p) < 4 * math.sqrt(p * (1 - p) / count)
    among = right / right.sum()
    assert exact["entropy"][0] == pytest.approx(-(among * np.log(among)).sum(), abs=0.05)
    assert exact["collision"][0] == pytest.approx((among**2).sum(), abs=0.05)


def test_next_token_targets_are_counted_shares(study, tokenizer, small_task):
    encoded = study.policy.encode({prompt: (*a.right, *a.wrong) for prompt, a in small_task.items()}, tokenizer)
    times = [3, 1, 2, 5, 4, 7, 1, 2, 6]
    targets = study.bases.next_token_targets(encoded, torch.tensor([float(t) for t in times]), len(tokenizer))
    rows = [row.tolist() for row in encoded.ids]
    said = [row for row, t in zip(rows, times, strict=True) for _ in range(t)]
    for row, mask, target in zip(rows, encoded.answer_mask.tolist(), targets, strict=True):
        for position in range(1, len(row)):
            if not mask[position]:
                assert not target[position - 1].any()
                continue
            following = collections.Counter(s[position] for s in said if s[:position] == row[:position])
            expected = torch.zeros(len(tokenizer))
            for token, number in following.items():
                expected[token] = number / following.total()
            torch.testing.assert_close(target[position - 1], expected)


# --- a run's checkpoints (recipes/cpu_demo/measure.py)


def test_a_summary_has_mean_accuracy_the_geometric_mean_of_what_is_kept_and_pass_at_16(study):
    base = {"accuracy": [0.5, 0.25], "entropy": [3.0, 2.0]}
    quarter_of_one = {"accuracy": [1.0, 0.5], "entropy": [3.0 - math.log(4), 2.0]}
    assert study.measure.summary(0, base, base) == pytest.approx(
        {"step": 0, "accuracy": 0.375, "share": 1, "pass@16": 1 - (0.5**16 + 0.75**16) / 2}
    )
    assert study.measure.summary(60, quarter_of_one, base) == pytest.approx(
        {"step": 60, "accuracy": 0.75, "share": 0.5, "pass@16": 1 - 0.5**17}
    )


# --- plan


def test_the_plans_names_are_unique_and_its_main_comparison_has_three_seeds_of_each(study):
    runs = study.plan.all_runs()
    assert len({run.name for run in runs}) == len(runs)
    main = collections.Counter((run.task, run.method) for run in runs if run.group == "main")
    assert len(main) == 3 * 7
    assert set(main.values()) == {3}
    every = {(run.task, run.seed) for run in runs if run.group == "main"}
    for name, setting in study.plan.SWEEPS.items():
        wanted = {(task, seed) for task, seed in every if seed in setting.seeds}
        assert {(run.task, run.seed) for run in runs if (run.group, run.method) == ("sweep", name)} == wanted


def test_a_new_setting_is_one_line_of_the_plan(study, monkeypatch):
    before = len(study.plan.all_runs())
    monkeypatch.setitem(
        study.plan.SWEEPS, "new", study.plan.Setting({"ALGO": "lad"}, seeds=study.plan.SEEDS, steps=120)
    )
    runs = [run for run in study.plan.all_runs() if run.method == "new"]
    assert len(study.plan.all_runs()) == before + 9
    assert {run.steps for run in runs} == {120}
    text = study.analyse.report(made_results(study), [], study.plan.all_runs())
    assert text.count("| new |") == 3 * 3 + 4
    assert "| new - grpo_kl |" in text


def test_every_method_of_the_plan_composes_as_verl_does(study, tmp_path):
    """Those that differ in more than a number, with the arguments that run_study.sh gives, in a process of its own."""
    recorder = tmp_path / "python"
    recorder.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"'
    )
    recorder.chmod(0o755)
    recipe = subprocess.run(
        ["bash", str(RECIPES / "run_study.sh")],
        env={**os.environ, "PYTHON": str(recorder)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert recipe.returncode == 0, recipe.stderr[-2000:]
    arguments = json.loads(recipe.stdout.splitlines()[-1])
    common = arguments[len(arguments) - arguments[::-1].index("--") :]
    script = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import plan, train
seen, found = set(), {}
common = sys.argv[2:]
for run in plan.all_runs():
    key = (run.env["ALGO"], run.env.get("RATIO"), *sorted(run.env), *(o.split("=")[0] for o in run.overrides))
    if key in seen:
        continue
    seen.add(key)
    config = train.configure(run, Path("assets"), common)
    actor = config.actor_rollout_ref.actor
    found[run.method] = [run.record(), actor.loss_agg_mode, actor.ppo_epochs, config.algorithm.use_kl_in_reward,
                         config.trainer.total_training_steps]
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(STUDY), *common],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 18
    for method, (run, loss_agg_mode, ppo_epochs, _, steps) in found.items():
        expected = "seq-mean-token-sum" if run["env"].get("RATIO") == "sequence" else "token-mean"
        assert loss_agg_mode == expected, method
        assert ppo_epochs == (int(method[-1]) if "epochs" in method else 1), method
        assert steps == 60
    assert found["grpo_kl"][3]
    assert not found["grpo"][3]


# --- analysis


def curve(study, accuracy, share, method="grpo", task="digits", seed=0, **run):
    """Two prompts with the given mean accuracy and share of the base's effective solutions, two steps a measurement."""
    accuracy, share = np.array(accuracy), np.array(share)
    steps = 2 * np.arange(1, len(accuracy))
    records = tuple(
        {
            "step": int(step),
            "score": float(a),
            "entropy": 0.5,
            "response_length": 4.0,
            "rollout_probs_diff": 0.0,
            "seconds": {"step": float(step), "gen": step / 2, "update_actor": step / 4},
        }
        for step, a in zip(steps, accuracy[1:], strict=True)
    )
    return study.curves.Curve(
        {"name": "made", "env": {}, "overrides": [], "method": method, "task": task, "seed": seed, **run},
        np.array([0.0, *(128 * steps)]),
        np.stack([accuracy - 0.01, accuracy + 0.01], 1),
        np.log(share)[:, None] + np.log([20.0, 30.0]),
        1 / (share[:, None] * np.array([20.0, 30.0])),
        records,
        seconds=10.0,
        actor_peak_mb=1000.0,
    )


def test_a_crossing_is_the_first_and_linear_between_measurements(study):
    made = curve(study, [0.4, 0.8, 0.7, 1.0], [1.0, 0.6, 0.5, 0.2])
    crossing = made.crossing(0.6)
    assert crossing.samples == pytest.approx(128)
    assert crossing.share == pytest.approx(0.8)
    assert made.crossing(0.8).share == pytest.approx(0.6)
    assert made.crossing(0.9).share == pytest.approx(0.5 + (0.2 / 0.3) * (0.2 - 0.5))
    assert made.crossing(0.4).samples == 0
    assert made.largest_fall == pytest.approx(0.1)


def test_a_level_that_is_never_reached_is_said_with_the_best_accuracy(study):
    made = [curve(study, [0.4, 0.8, 0.7], [1.0, 0.6, 0.5]), curve(study, [0.4, 0.95, 0.9], [1.0, 0.6, 0.5])]
    assert made[0].crossing(0.9) is None
    at_level = study.analyse.at_level
    assert at_level(made, 0.9, lambda c: c.share, 2) == "0.64; 1 of 2 (best 0.800)"
    assert at_level(made[:1], 0.9, lambda c: c.share, 2) == "0 of 1 (best 0.800)"
    assert at_level([], 0.9, lambda c: c.share, 2) == "no run"


def test_the_share_is_the_geometric_mean_over_prompts_of_effective_solutions_by_the_bases(study):
    made = curve(study, [0.4, 0.5], [1.0, 0.25])
    entropy = made.entropy.copy()
    entropy[1] = entropy[0] + np.log([0.9, 0.4])
    uneven = study.curves.Curve(
        made.run, made.samples, made.accuracy, entropy, made.collision, made.records, made.seconds
    )
    assert uneven.share == pytest.approx([1.0, 0.6])
    assert made.share == pytest.approx([1.0, 0.25])
    assert made.collision_share == pytest.approx([1.0, 0.25])


def test_pass_at_k_is_exact_per_prompt(study):
    made = curve(study, [0.4, 0.5], [1.0, 1.0])
    assert made.pass_at(1) == pytest.approx(made.mean_accuracy)
    assert made.pass_at(4)[0] == pytest.approx(((1 - 0.61**4) + (1 - 0.59**4)) / 2)


def test_the_entropy_is_of_a_response_under_either_aggregation(study):
    assert curve(study, [0.4, 0.5], [1.0, 1.0]).response_entropy == pytest.approx([2.0])
    summed = curve(study, [0.4, 0.5], [1.0, 1.0], env={"RATIO": "sequence"})
    assert summed.response_entropy == pytest.approx([0.5])


def test_an_interval_needs_three_values(study):
    assert study.analyse.interval([0.5, 0.7]) == "0.50, 0.70"
    assert study.analyse.interval([0.5, 0.6, 0.7]) == f"0.60 ± {4.303 * 0.1 / math.sqrt(3):.2f}"
    assert study.analyse.difference([(1.0, 0.5), (2.0, 0.5)], 3) == "+1.00 (2 of 3 pairs)"
    assert study.analyse.difference([], 3) == "(0 of 3 pairs)"
    text = study.analyse.difference([(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)], 3)
    assert text.startswith("+1.50 [+0.50, +2.50]")


def made_results(study, missing=()):
    """Make a curve for each run of the plan but the missing names."""
    return {
        (run.group, run.task, run.method, run.seed): curve(
            study,
            0.4 + 0.58 * (1 - 0.9 ** np.arange(31)),
            0.95 ** np.arange(31),
            **{**run.record(), "versions": {"verl": "0"}, "machine": "m", "date": "d"},
        )
        for run in study.plan.all_runs()
        if run.name not in missing
    }


def test_the_cost_is_the_median_ratio_of_step_times_after_the_warm_up_and_of_peak_memory(study):
    def timed(peak, seconds):
        records = [{"step": i + 1, "seconds": {"update_actor": t, "step": 2 * t}} for i, t in enumerate(seconds)]
        return study.curves.Curve({}, *[np.zeros(1)] * 4, records=records, seconds=1.0, actor_peak_mb=peak)

    slow_start = [50.0, 51.0, 52.0]
    curves = {("cost", "digits", "grpo", 0): timed(1000.0, [*slow_start, 53.0, 54.0, 55.0])}
    curves["cost", "digits", "lad", 0] = timed(1010.0, [*slow_start, 53.5, 54.0, 54.5])
    text = study.analyse.cost_section(curves)
    assert "| lad / grpo | 1 | 1.00 | 0.500 (0.500) | 2.00 | 0.500 (0.500) | 1000 | 1.010 (1.010) |" in text
    assert "| mass_one / grpo_kl | 0 | no run | no run | no run |" in text


def test_a_longer_run_is_given_at_half_its_steps_and_at_its_end(study):
    made = curve(study, [0.4, *[0.6] * 6, *[0.9] * 6], [1.0, *[0.8] * 6, *[0.5] * 6])
    text = study.analyse.longer_section({("longer", "path", "grpo", 0): made})
    assert "| path | grpo | 0.600 / 0.80 | 0.900 / 0.50 |" in text
    assert "| path | grpo_kl | no run |  |" in text


def test_missing_runs_are_said(study):
    plan = study.plan.all_runs()
    everything = study.analyse.status_section(made_results(study), [], plan)
    assert everything.count("| none |") == 13
    missing = {"main-path-lad-seed1", "hard_long-long_path-lad-seed0"}
    text = study.analyse.status_section(made_results(study, missing), ["x"], plan)
    assert "| main | path | 20 of 21 | lad (seed 1) |" in text
    assert "| hard_long | long_path | 4 of 5 | lad (seed 0) |" in text
    assert "no run of plan.py as it stands: x" in text
    assert "| main | path | 0 of 21 |" in study.analyse.report({}, [], plan)


def test_all_tables_and_figures_come_from_a_whole_study_and_are_small(study, tmp_path):
    curves = made_results(study)
    study.analyse.draw_figures(curves, tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["end.png", "frontier.png", "hard.png", "learning.png"]
    assert max(sizes.values()) < 150_000
    text = study.analyse.report(curves, [], study.plan.all_runs())
    assert "no run" not in text
    assert "nan" not in text
    for line_head in (
        "| mass_one-epochs4 |",
        "| mass_one - grpo_kl |",
        "| mass_one-epochs4 - lad |",
        "**hard_long** (long_path):",
    ):
        assert line_head in text
    assert "+0.00 [+0.00, +0.00] (9 of 9 pairs)" in text
    assert set(study.analyse.COLOURS) == {*study.plan.MAIN, *study.plan.HARD_METHODS}


def test_the_front_has_the_points_that_no_other_beats_in_both(study):
    points = [(0.9, 0.1), (0.8, 0.5), (0.7, 0.5), (0.7, 0.9), (0.6, 0.8), (0.9, 0.1)]
    assert [study.analyse.on_front(point, points) for point in points] == [True, True, False, True, False, True]


def test_a_setting_is_compared_with_the_in_reward_kl_of_the_nearest_share_on_each_task(study):
    names = {"grpo_kl": (0.8, 0.6), "grpo_kl-0.25": (0.7, 0.9), "balanced-js": (0.75, 0.85)}
    curves = {}
    for name, (accuracy, share) in names.items():
        group, _ = study.analyse.seeded()[name]
        for seed in study.plan.SEEDS:
            made = curve(study, [0.4, *[accuracy] * 5], [1.0, *[share] * 5], method=name, seed=seed)
            curves[group, "digits", name, seed] = made
    text = study.analyse.nearest_section(curves)
    same = "+0.05 [+0.05, +0.05] (3 of 3 pairs) | -0.05 [-0.05, -0.05] (3 of 3 pairs) |"
    assert f"| balanced-js | digits | grpo_kl-0.25 | {same}" in text
    assert f"| balanced-js | all |  | {same}" in text


# --- results


@pytest.fixture
def unpacked(study, tmp_path):
    """unpacked("main-digits-grpo-seed0", ...): a directory with these runs, as train.py writes them."""
    packed = study.results.read_packed(study.results.packed_file(study.results.RESULTS))

    def write(*names):
        directory = tmp_path / "results"
        directory.mkdir(exist_ok=True)
        for name in names:
            lines = "".join(json.dumps(record) + "\n" for record in packed[name])
            (directory / f"{name}.jsonl").write_text(lines)
        return directory

    return write


def test_packing_adds_runs_and_replaces_those_of_the_same_name(study, unpacked):
    first, second = "main-digits-grpo-seed0", "main-path-lad-seed1"
    directory = unpacked(first)
    packed = study.results.packed_file(directory)
    assert packed == directory.parent / "results.jsonl.xz"
    assert study.results.pack(directory) == (1, 1)
    before = packed.read_bytes()
    assert study.results.pack(directory) == (1, 1)
    assert packed.read_bytes() == before
    (directory / f"{first}.jsonl").unlink()
    assert study.results.pack(unpacked(second)) == (1, 2)
    committed = study.results.read_packed(study.results.packed_file(study.results.RESULTS))
    assert study.results.read_packed(packed) == {name: committed[name] for name in (first, second)}
    assert sorted(path.name for path in directory.parent.iterdir()) == ["results", "results.jsonl.xz"]


def test_a_run_is_repeated_only_if_it_is_neither_packed_nor_in_the_directory(study, unpacked):
    plan = study.plan.all_runs()
    assert study.results.missing_runs(plan, STUDY / "results") == []
    directory = unpacked("main-digits-grpo-seed0")
    study.results.pack(directory)
    (directory / "main-digits-grpo-seed0.jsonl").unlink()
    unpacked("main-path-lad-seed1")
    missing = {run.name for run in study.results.missing_runs(plan, directory)}
    assert {run.name for run in plan} - missing == {"main-digits-grpo-seed0", "main-path-lad-seed1"}
    changed = [replace(run, steps=61) for run in plan if run.name == "main-digits-grpo-seed0"]
    assert study.results.missing_runs(changed, directory) == changed


def test_a_run_with_other_settings_than_the_plans_is_not_packed_and_named(study, unpacked):
    path = unpacked("main-digits-grpo-seed0") / "main-digits-grpo-seed0.jsonl"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 2', 1))
    with pytest.raises(ValueError, match=r"grpo-seed0\.jsonl is no run of plan\.py as it stands"):
        study.results.pack(path.parent)
    assert not study.results.packed_file(path.parent).exists()


def test_a_result_with_other_settings_than_the_plans_is_left_out_and_named(study, unpacked):
    directory = unpacked("main-digits-grpo-seed0")
    study.results.pack(directory)
    plan = [replace(run, steps=61) for run in study.plan.all_runs()]
    curves, others = study.curves.read_curves(study.results.packed_file(directory), plan)
    assert not curves
    assert others == ["main-digits-grpo-seed0"]


def test_an_unfinished_file_is_refused(study, unpacked):
    path = unpacked("main-digits-grpo-seed0") / "main-digits-grpo-seed0.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"grpo-seed0\.jsonl is not a finished run's file"):
        study.results.pack(path.parent)


def test_the_committed_tables_are_those_of_the_committed_results(study):
    """Publication's guard: `python recipes/study/analyse.py` after results have changed."""
    plan = study.plan.all_runs()
    curves, others = study.curves.read_curves(study.results.packed_file(STUDY / "results"), plan)
    assert (STUDY / "RESULTS.md").read_text() == study.analyse.report(curves, others, plan)
    for name in re.findall(r"\]\((figures/.*?)\)", (STUDY / "RESULTS.md").read_text()):
        assert (STUDY / name).exists()


def test_the_readmes_table_is_that_of_the_committed_results(study):
    readme = (STUDY / "README.md").read_text()
    curves, _ = study.curves.read_curves(study.results.packed_file(STUDY / "results"), study.plan.all_runs())
    end, rows = study.curves.end, 0
    for method, (group, _) in study.analyse.seeded().items():
        if f"| `{method}` |" not in readme:
            continue
        cells = []
        for task in study.plan.TASKS:
            runs = study.curves.of_seeds(curves, group, task, method)
            accuracy, share = (
                np.mean([end(getattr(run, name)) for run in runs]) for name in ("mean_accuracy", "share")
            )
            cells.append(f"{accuracy:.3f} / {share:.2f}")
        assert f"| `{method}` | {' | '.join(cells)} |" in readme
        rows += 1
    assert rows >= 6
