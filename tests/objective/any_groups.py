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


@dataclass(frozen=True)
class Groups:
    """One call of group_advantages."""

    scores: Tensor
    ids: Tensor | Sequence[Any]
    config: LADConfig
    norm_by_std: bool
    K: Tensor | None
    groups: list[list[int]]
    seed: int

    def advantages(self, scores: Tensor | None = None) -> Tensor:
        scores = self.scores if scores is None else scores
        return group_advantages(scores, self.ids, self.config, self.norm_by_std, self.K)


any_groups = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.one_of(kinds(1, 2, 8, 64), st.integers(1, 64)), max_size=5),
        "scores": kinds("binary", "continuous", "far from zero", "equal"),
        "dtype": kinds(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool),
        "layout": kinds("contiguous", "strided", "expanded"),
        "ids": kinds("tensor", "strings", "array", "uuids"),
        "partition": kinds("none", "group"),
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
    anchor: str,
    norm_by_std: bool,
    seed: int,
) -> Groups:
    """Numbers for what hypothesis has drawn: eta from 1e-3 to 1e3, scores from 1e-6 to 1e4, K up to 1e4."""
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
    config = LADConfig(eta=10 ** scale.uniform(-3, 3), partition=partition, anchor=anchor)
    K = (10 ** scale.uniform(-3, 4)) * (uniform() - 0.5) if anchor == "reference" else None
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
        K=K if K is None or scale.random() < 0.5 else K.float(),
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
    eta, eps, own = case.config.eta, torch.finfo(torch.float64).eps, torch.finfo(A.dtype)
    anchored = case.K is not None
    n = len(group)
    with mpmath.workdps(exact.DIGITS):
        s = [mpf(float(case.scores[row])) for row in group]
        correction = [mpf(eta) * mpf(float(case.K[row])) if case.K is not None else mpf(0) for row in group]
        size = max(abs(one) + abs(other) for one, other in zip(s, correction, strict=True))
        anchored_scores = [one - other for one, other in zip(s, correction, strict=True)]
        centred_partition = anchored or case.config.partition == "group"
        norm = case.norm_by_std and not anchored
        uncentred, divisor = exact.advantages(anchored_scores, eta, norm, False)
        expected, _ = exact.advantages(anchored_scores, eta, norm, centred_partition)
        largest = max(map(abs, uncentred))
        # of the centred score, then of its division by a std with an error of the same size
        error = eps * (n + 4) * size / divisor * (1 + (2 * largest if norm else 0)) + 8 * eps * largest
        if centred_partition:
            error = 2 * error + eps * (n + 8) * (eta + largest)
        for row, value in zip(group, expected, strict=True):
            bound = error + own.eps * abs(value) + own.smallest_normal * own.eps
            if abs(value) + bound < own.max:
                off = abs(mpf(float(A[row])) - value)
                assert off <= bound, (
                    f"A[{row}] is off by {float(off):.3g} of {float(value):.6g}, bound {float(bound):.3g}"
                )


def check(case: Groups) -> None:
    """Finite, exact, repeatable, zero for equal scores; a NaN stays in its group; nothing of the input changed."""
    before, K_before = case.scores.clone(), None if case.K is None else case.K.clone()
    A = case.advantages()
    assert A.shape == case.scores.shape
    assert A.dtype == (case.scores.dtype if case.scores.is_floating_point() else torch.float32)
    if A.dtype != torch.float16:  # which ends at 65504
        assert A.isfinite().all()
    assert torch.equal(A, case.advantages())
    assert torch.equal(case.scores, before)
    assert K_before is None or torch.equal(case.K, K_before)
    for group in case.groups:
        if case.K is None and len(group) > 1 and len(set(case.scores[group].tolist())) == 1:
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
