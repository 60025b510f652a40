"""The task of recipes/run_smollm2_animals.sh, and its data."""

import random
from pathlib import Path

import pandas as pd
import pytest

from .modules import load_modules

DIRECTORY = Path(__file__).parents[2] / "recipes" / "smollm2"


@pytest.fixture(scope="module")
def recipe():
    """Load the recipe's modules, as attributes."""
    return load_modules(("task", "prepare"), DIRECTORY)


def test_every_letter_has_several_right_answers_and_they_alone_are_right(recipe):
    for letter in recipe.task.LETTERS:
        right = [a for a in recipe.task.ANIMALS if recipe.task.compute_score("", a, letter)["score"] == 1.0]
        assert len(right) >= 5
        assert all(animal.startswith(letter) for animal in right)


@pytest.mark.parametrize(
    ("response", "score", "solution"),
    [
        ("cat", 1.0, "cat"),
        (" Cat.\n", 1.0, "cat"),
        ("dog", 0.0, "dog"),
        ("cloud", 0.0, "cloud"),
        ("cat, cow", 0.0, "cat, cow"),
        ("", 0.0, ""),
        ("c", 0.0, "c"),
    ],
)
def test_one_animal_of_the_list_is_right_in_any_case_with_or_without_a_full_stop(recipe, response, score, solution):
    result = recipe.task.compute_score("", response, "c")
    assert (result["score"], result["acc"], result["solution"]) == (score, score, solution)


def test_the_examples_are_right_answers_to_other_letters(recipe):
    random_ = random.Random(0)
    for _ in range(200):
        problem = recipe.task.make_problem(random_)
        *turns, last = problem.chat()
        assert last == {"role": "user", "content": f"Name an animal that begins with {problem.letter}."}
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            letter = answered["content"][0]
            assert letter != problem.letter
            assert asked["content"] == recipe.task.question(letter)
            assert answered["content"] in recipe.task.ANIMALS


def test_no_problem_is_in_training_and_validation_or_twice_in_one(recipe, tmp_path):
    recipe.prepare.write_data(tmp_path, seed=0, train=300, val=32)
    texts = []
    for split, count in (("train", 300), ("val", 32)):
        frame = pd.read_parquet(tmp_path / f"{split}.parquet")
        assert len(frame) == count
        texts += [str(list(prompt)) for prompt in frame["prompt"]]
        assert set(frame["extra_info"].map(lambda info: info["split"])) == {split}
    assert len(set(texts)) == 332
