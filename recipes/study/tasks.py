"""Define the study's tasks: prompts with many right answers, all known, so that a policy is measured by enumeration.

They differ in alphabet, length and number of solutions. Each prompt has wrong answers too, near misses, as a base model
that learned from imperfect text would say. `compute_score` is the reward function that verl calls
(reward.custom_reward_function.path names this file). Nothing here is random.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

EOS = "<|im_end|>"


class Answers(NamedTuple):
    """A prompt's right answers, all of them, and some wrong ones, each in a fixed order."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]


Task = dict[str, Answers]  # by prompt


def digits() -> Task:
    """Name three digits with a given sum: 4 tokens with the end, 55 to 75 solutions. Wrong: off by one."""
    by_sum: dict[int, list[str]] = {}
    for answer in itertools.product(range(10), repeat=3):
        by_sum.setdefault(sum(answer), []).append("".join(map(str, answer)))
    return {f"{s}=": Answers(tuple(by_sum[s]), (*by_sum[s - 1], *by_sum[s + 1])) for s in range(9, 17)}


def _spread(task: Task, count: int) -> Task:
    """Return `count` of the prompts, evenly spread."""
    prompts = list(task)
    return {prompt: task[prompt] for prompt in prompts[:: len(prompts) // count][:count]}


def expression() -> Task:
    """Hit a target with four digits, each once, and + - * between: 8 tokens, 16 to 20 answers. Wrong: near it."""
    task: Task = {}
    for numbers in itertools.combinations("123456789", 4):
        by_value: dict[int, list[str]] = {}
        for order in itertools.permutations(numbers):
            for operators in itertools.product("+-*", repeat=3):
                text = "".join(itertools.chain(*itertools.zip_longest(order, operators, fillvalue="")))
                by_value.setdefault(eval(text), []).append(text)  # made here of digits and operators
        for value, answers in sorted(by_value.items()):
            if 10 <= value <= 50 and 16 <= len(answers) <= 24:
                near = [text for miss in (-3, -2, -1, 1, 2, 3) for text in by_value.get(value + miss, ())]
                task[f"{''.join(numbers)}>{value}="] = Answers(tuple(answers), tuple(near))
    return _spread(task, 8)


MOVES = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}


def _paths(size: int, walls: frozenset[tuple[int, int]], moves: str, longest: int) -> Iterator[str]:
    """Yield all ways from the top left corner to the bottom right one that visit no cell twice."""

    def extend(cell: tuple[int, int], seen: frozenset[tuple[int, int]], text: str) -> Iterator[str]:
        if cell == (size - 1, size - 1):
            yield text
            return
        for move in moves if len(text) < longest else "":
            then = (cell[0] + MOVES[move][0], cell[1] + MOVES[move][1])
            if min(then) >= 0 and max(then) < size and then not in walls and then not in seen:
                yield from extend(then, seen | {then}, text + move)

    yield from extend((0, 0), frozenset({(0, 0)}), "")


def _grids(size: int, walls: int, moves: str, longest: int, fewest: int, most: int, count: int) -> Task:
    everything = list(_paths(size, frozenset(), moves, longest))
    inner = list(itertools.product(range(size), repeat=2))[1:-1]
    task: Task = {}
    for blocked in itertools.combinations(inner, walls):
        right = tuple(_paths(size, frozenset(blocked), moves, longest))
        if fewest <= len(right) <= most:
            wrong = tuple(sorted(set(everything).difference(right)))
            task[",".join(f"{row}{column}" for row, column in blocked) + ":"] = Answers(right, wrong)
    return _spread(task, count)


def path() -> Task:
    """Cross a 4 x 4 grid with two walls in 6 to 10 moves: 7 to 11 tokens, 15 to 39 answers. Wrong: through walls."""
    return _grids(size=4, walls=2, moves="UDLR", longest=10, fewest=15, most=40, count=8)


def long_path() -> Task:
    """Go down and right in a 7 x 7 grid with two walls: 13 tokens, 210 to 382 solutions. Wrong: through walls."""
    return _grids(size=7, walls=2, moves="DR", longest=12, fewest=200, most=400, count=4)


MAKERS: dict[str, Callable[[], Task]] = {f.__name__: f for f in (digits, expression, path, long_path)}


@functools.cache
def get_task(name: str) -> Task:
    """Return a task by name; raise ValueError if there is none."""
    if name not in MAKERS:
        raise ValueError(f"task={name!r} is not allowed: {', '.join(MAKERS)}")
    return MAKERS[name]()


@functools.cache
def _right(name: str, prompt: str) -> frozenset[str]:
    return frozenset(get_task(name)[prompt].right)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **unused: Any
) -> dict[str, float]:
    """Score 1 for a right answer and nothing else. `data_source` is the task and `ground_truth` the prompt."""
    right = float(solution_str.removesuffix(EOS) in _right(data_source, ground_truth))
    return {"score": right, "acc": right}
