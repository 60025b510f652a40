"""Any batch of scores: what any_input.py is to the loss, for the advantages."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import mpmath
import numpy as np
import torch
from hypothesis import note
from mpmath import mpf
from torch import Tensor

from verl_lad import LADConfig, group_advantages

from . import exact
from .any_input import CASES_PER_KIND, kinds, laid_out
from .formulas import DIVERGENCES


@dataclass(frozen=True)
class Groups:
    """One call of group_advantages."""

    scores: Tensor
    ids: Tensor | Sequence[Any]
    config: LADConfig
    norm_by_std: bool
    groups: list[list[int]]
    seed: int

    def advantages(self, scores: Tensor | None = None) -> Tensor:
        scores = self.scores if scores is None else scores
        return group_advantages(scores, self.ids, self.config, self.norm_by_std)


any_groups = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.one_of(kinds(1, 2, 8, 64), st.integers(1, 64)), max_size=5),
        "scores": kinds("binary", "continuous", "far from zero", "equal"),
        "dtype": kinds(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool),
        "layout": kinds("contiguous", "strided", "expanded"),
        "ids": kinds("tensor", "strings", "array", "uuids"),
        "partition": kinds("none", "group", "balanced"),
        "divergence": kinds(*DIVERGENCES),
        "anchor": kinds("old", "reference"),
        "norm_by_std": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)
"""The arguments of make_groups."""


def make_groups(
    sizes: list[int],
    scores: str,
    dtype: torch.dtype,
    layout: str,
    ids: str,
    partition: str,
    divergence: tuple[str, float],
    anchor: str,
    norm_by_std: bool,
    seed: int,
) -> Groups:
    """Draw numbers for a kind: eta from 1e-3 to 1e3, scores from 1e-6 to 1e4, less eta K with K up to 1e4."""
    generator, scale = torch.Generator().manual_seed(seed), random.Random(seed)
    n = sum(sizes)
    numbers = [group for group, size in enumerate(sizes) for _ in range(size)]
    scale.shuffle(numbers)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    size = 10 ** scale.uniform(-6, 4)
    s = {
        "binary": (uniform() < scale.random()).double(),
        "continuous": size * (uniform() - 0.5),
        "far from zero": 1e3 + size * 1e-6 * uniform(),
        "equal": torch.full((n,), size * (scale.random() - 0.5), dtype=torch.float64),
    }[scores]
    name, alpha = divergence
    config = LADConfig(eta=10 ** scale.uniform(-3, 3), divergence=name, alpha=alpha, partition=partition, anchor=anchor)
    if anchor == "reference":
        s = s - config.eta * 10 ** scale.uniform(-3, 4) * (uniform() - 0.5)
    if dtype == torch.float16:
        s = s.clamp(-6e4, 6e4)  # float16 ends at 65504
    return Groups(
        scores=laid_out(s.to(dtype), layout),
        ids={
            "tensor": torch.tensor(numbers, dtype=torch.int64),
            "strings": [f"prompt-{number}" for number in numbers],
            "array": np.array(numbers, dtype=object),
            "uuids": [uuid.UUID(int=number) for number in numbers],
        }[ids],
        config=config,
        norm_by_std=norm_by_std,
        groups=[[row for row, number in enumerate(numbers) if number == group] for group in range(len(sizes))],
        seed=seed,
    )


def groups_of(kind: dict[str, Any]) -> Iterator[Groups]:
    """CASES_PER_KIND cases of that kind, with the seeds from its own on."""
    for seed in range(kind["seed"], kind["seed"] + CASES_PER_KIND):
        note(f"seed={seed}")
        yield make_groups(**{**kind, "seed": seed})


def check_against_50_digits(case: Groups, A: Tensor, group: list[int]) -> None:
    """All advantages of one group, within a few roundings of the scores and of float64, and one of A's own type."""
    config = case.config
    eta, eps, own = config.eta, torch.finfo(torch.float64).eps, torch.finfo(A.dtype)
    norm = case.norm_by_std and config.anchor == "old"
    n = len(group)
    with mpmath.workdps(exact.DIGITS):
        s = [mpf(float(case.scores[row])) for row in group]
        uncentred, divisor = exact.advantages(s, norm)
        v = [a / mpf(eta) for a in uncentred]
        largest = max(map(abs, uncentred))
        # of the centred score, then of its division by a std with an error of the same size
        error = eps * (n + 4) * max(map(abs, s)) / divisor * (1 + (2 * largest if norm else 0)) + 8 * eps * largest
        b = mpf(0)
        if config.constant == "group" or (config.constant == "balanced" and config.divergence == "tv"):
            b = exact.constant(config.constant, config.divergence, config.alpha, v)
            error = 2 * error + eps * (n + 8) * (eta + largest)
        elif config.constant == "balanced":
            # the root is within error / eta of the constant that was subtracted, or the sum would not change its sign
            exactly = case.advantages(case.scores.double())
            b = v[0] - mpf(float(exactly[group[0]])) / mpf(eta)
            error = 2 * error + eps * (n + 8) * (eta * rounding_of_the_root(config, v, b) + largest)
            low, high = (
                exact.balance(config.divergence, config.alpha, v, b + off, config.max_log_weight)[0]
                for off in (-error / eta, error / eta)
            )
            assert low <= 0 <= high, f"b={float(b)!r}: the weights sum to {float(low):.3g} and {float(high):.3g}"
        for row, value in zip(group, [mpf(eta) * (one - b) for one in v], strict=True):
            bound = error + own.eps * abs(value) + own.smallest_normal * own.eps
            if abs(value) + bound < own.max:
                off = abs(mpf(float(A[row])) - value)
                assert off <= bound, (
                    f"A[{row}] is off by {float(off):.3g} of {float(value):.6g}, bound {float(bound):.3g}"
                )


def rounding_of_the_root(config: LADConfig, v: list[mpf], b: mpf) -> mpf:
    """Return by how much b moves, in units of eps, if the sum of the weights has a relative rounding of eps."""
    step = mpf(10) ** -20
    above, size = exact.balance(config.divergence, config.alpha, v, b + step, config.max_log_weight)
    below, _ = exact.balance(config.divergence, config.alpha, v, b - step, config.max_log_weight)
    return size * 2 * step / (above - below)


def check(case: Groups) -> None:
    """Finite, exact, repeatable, zero for equal scores; a NaN stays in its group; nothing of the input changed."""
    before = case.scores.clone()
    A = case.advantages()
    assert A.shape == case.scores.shape
    assert A.dtype == (case.scores.dtype if case.scores.is_floating_point() else torch.float32)
    if A.dtype != torch.float16:  # which ends at 65504
        assert A.isfinite().all()
    assert torch.equal(A, case.advantages())
    assert torch.equal(case.scores, before)
    for group in case.groups:
        if len(group) > 1 and len(set(case.scores[group].tolist())) == 1:
            assert not A[group].any()
    if not case.groups:
        return
    chosen = random.Random(case.seed).choice(case.groups)
    check_against_50_digits(case, A, chosen)
    if case.scores.is_floating_point():
        spoilt = case.scores.clone()
        spoilt[chosen[0]] = torch.nan
        others = [row for group in case.groups if group is not chosen for row in group]
        assert torch.equal(case.advantages(spoilt)[others], A[others])
