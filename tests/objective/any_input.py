"""Anything that a training run may hand to the loss: a hypothesis strategy, and what must hold for all of it.

One case is one call with a batch of up to 64 responses of up to 16 tokens. Hypothesis draws its kind: the settings,
types, layouts, mask and scales. The numbers come from a seed, so that a case is quick to draw and its report short, and
CASES_PER_KIND cases are made of each kind.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import mpmath
import torch
from hypothesis import HealthCheck, note, settings
from mpmath import mpf
from torch import Tensor

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import DIAGNOSTICS, diagnostic_means
from verl_lad.objective.loss import closed_form

from .exact import DIGITS, limited, weight_and_value
from .formulas import DIVERGENCES, RATIOS, saturate

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "transposed", "strided", "expanded")
CASES_PER_KIND = 4
JUNK = (float("nan"), float("inf"), float("-inf"), 6e4)


def cases_in_all(number: int) -> Callable:
    """hypothesis' settings for that many cases, the same in every run."""
    return settings(
        max_examples=number // CASES_PER_KIND,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True)
class Case:
    """One call of the loss, and the junk for its masked slots."""

    config: LADConfig
    log_prob: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    mask: Tensor
    junk: float
    seed: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.log_prob, self.old_log_prob, self.advantages, self.mask

    def contiguous(self) -> "Case":
        names = ("log_prob", "old_log_prob", "advantages", "mask")
        return replace(self, **{name: getattr(self, name).contiguous() for name in names})

    def dirty(self) -> "Case":
        """The same with junk wherever the mask is 0; contiguous."""
        masked = self.mask == 0
        unused = masked if self.advantages.dim() == 2 and self.advantages.shape[1] > 1 else masked.all(-1, keepdim=True)
        if self.advantages.dim() == 1:
            unused = unused.squeeze(-1)
        clean = self.contiguous()
        return replace(
            clean,
            log_prob=clean.log_prob.masked_fill(masked, self.junk),
            old_log_prob=clean.old_log_prob.masked_fill(masked, self.junk),
            advantages=clean.advantages.masked_fill(unused.expand(self.advantages.shape), self.junk),
        )


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in another layout; for "expanded" the first row's, for all rows."""
    if layout == "transposed" and x.dim() == 2:
        return x.t().contiguous().t()
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, 7)], dim=-1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x


def make_case(
    divergence: tuple[str, float],
    ratio: str,
    shape: tuple[int, int],
    advantages_per: str,
    limit: float,
    mask_kind: str,
    types: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype],
    layouts: tuple[str, str, str, str],
    at_target: bool,
    junk: float,
    seed: int,
) -> Case:
    """Numbers for what hypothesis has drawn.

    Args:
        divergence: name and alpha.
        ratio: LADConfig's.
        shape: (B, T).
        advantages_per: "response", "row" or "token": (B,), (B, 1) or (B, T).
        limit: max_log_ratio and max_log_weight.
        mask_kind: all, prefix (of any length from 0), random, one (token a response), none.
        types: of log_prob, old_log_prob, advantages and mask.
        layouts: likewise.
        at_target: log-ratios on their targets or near them, where terms cancel.
        junk: for masked slots.
        seed: of the numbers, and of their scales: eta from 1e-3 to 1e3, log-ratios and advantages from 1e-9 to 1e4.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    rows, length = shape
    scale = random.Random(seed)
    eta = 10 ** scale.uniform(-3, 3)
    log_ratio_scale, advantage_scale = (10 ** scale.uniform(-9, 4) for _ in range(2))
    columns = {"response": (), "row": (1,), "token": (length,)}[advantages_per]
    advantages = (normal(rows, *columns) * advantage_scale).clamp(-1e4, 1e4)
    advantages[uniform(rows, *columns) < 0.1] = 0.0
    log_ratio = normal(rows, length).clamp(-1, 1) * log_ratio_scale
    log_ratio[uniform(rows, length) < 0.1] = 0.0
    if at_target:
        u = (advantages if columns else advantages[:, None]) / eta
        log_ratio = u.clamp(-1e4, 1e4) + log_ratio * (uniform(rows, length) < 0.5)
    old = -normal(rows, length).abs() * scale.choice([0.0, 1.0, 30.0])
    mask = {
        "all": torch.ones(rows, length),
        "prefix": torch.arange(length) < (uniform(rows, 1) * (length + 1)).long(),
        "random": uniform(rows, length) < 0.5,
        "one": torch.arange(length) == (uniform(rows, 1) * length).long(),
        "none": torch.zeros(rows, length),
    }[mask_kind]
    tensors = [
        laid_out(x.to(dtype), layout)
        for x, dtype, layout in zip((old + log_ratio, old, advantages, mask), types, layouts, strict=True)
    ]
    name, alpha = divergence
    config = LADConfig(eta, name, alpha, ratio, max_log_ratio=limit, max_log_weight=limit)
    return Case(config, *tensors, junk=junk, seed=seed)


def kinds(*allowed: object) -> st.SearchStrategy:
    return st.sampled_from(allowed)


ANY_TYPES = st.tuples(*[kinds(*TYPES)] * 3, kinds(torch.bool, torch.int64, torch.float32))
ONE_TYPE = st.builds(lambda one, mask: (one, one, one, mask), kinds(*TYPES), kinds(torch.bool, torch.int64))
any_kind = st.fixed_dictionaries(
    {
        "divergence": kinds(*DIVERGENCES),
        "ratio": kinds(*RATIOS),
        "shape": st.tuples(kinds(1, 2, 3, 8, 64, 0), kinds(1, 4, 2, 16, 0)),
        "advantages_per": kinds("response", "row", "token"),
        "limit": kinds(20.0, 21.0, 1.0, 1e-3),
        "mask_kind": kinds("all", "prefix", "random", "one", "none"),
        "types": st.one_of(ONE_TYPE, ANY_TYPES),
        "layouts": st.one_of(st.just(("contiguous",) * 4), st.tuples(*[kinds(*LAYOUTS)] * 4)),
        "at_target": st.booleans(),
        "junk": kinds(*JUNK),
        "seed": st.integers(0, 2**32 - 1),
    }
)
"""The arguments of make_case."""


def cases_of(kind: dict[str, Any]) -> Iterator[Case]:
    """CASES_PER_KIND cases of that kind, with the seeds from its own on."""
    for seed in range(kind["seed"], kind["seed"] + CASES_PER_KIND):
        note(f"seed={seed}")
        yield make_case(**{**kind, "seed": seed})


@dataclass(frozen=True)
class Result:
    """Loss matrix, the gradient of its sum, weight and value at the ratio's level, and the diagnostics' means."""

    loss: Tensor
    gradient: Tensor
    weight: Tensor
    value: Tensor
    diagnostics: Tensor

    def same_bits(self, other: "Result") -> bool:
        return all(
            torch.equal(mine, others) for mine, others in zip(vars(self).values(), vars(other).values(), strict=True)
        )


def evaluate(case: Case) -> Result:
    log_prob, *rest = case.tensors
    log_prob = log_prob.detach().requires_grad_()
    loss, diagnostics = lad_loss(log_prob, *rest, case.config)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    again, weight, _ = closed_form(*case.tensors, case.config)
    assert torch.equal(again, loss)
    value = again
    if case.config.ratio != "token":  # back to one number a response, the same in each of its tokens
        value = value.sum(-1, keepdim=True)
        if case.config.ratio == "geometric":
            value = value / (case.mask != 0).sum(-1, keepdim=True).clamp(min=1)
        if weight.numel():
            weight = weight.gather(-1, weight.abs().argmax(-1, keepdim=True))
        else:
            weight = weight.sum(-1, keepdim=True)
    means = torch.tensor(list(diagnostic_means(diagnostics).values()), dtype=torch.float64)
    return Result(loss.detach(), gradient, weight, value, means)


def check_against_50_digits(case: Case, result: Result, row: int, column: int) -> None:
    """One element of the loss and of the gradient, within what the rounding of its arguments explains.

    The arguments l and u are computed with a few roundings; the exact function is evaluated at the corners of what they
    may have become. To its change there a few roundings of the terms are added, and that of the gradient's own type.
    """
    config = case.config
    name, alpha, limits = config.divergence, config.alpha, (config.max_log_ratio, config.max_log_weight)
    eps = torch.finfo(result.loss.dtype).eps
    with mpmath.workdps(DIGITS):
        columns = [column] if config.ratio == "token" else case.mask[row].nonzero().flatten().tolist()
        advantages = case.advantages.reshape(case.advantages.shape[0], -1)
        l_t = [mpf(float(case.log_prob[row, t])) - mpf(float(case.old_log_prob[row, t])) for t in columns]
        u_t = [mpf(float(advantages[row, t if advantages.shape[1] > 1 else 0])) / mpf(config.eta) for t in columns]
        n = len(columns)
        count = 1 if config.ratio == "sequence" else n
        l, l_size = sum(l_t) / count, sum(map(abs, l_t)) / count
        u, u_size = sum(u_t) / n, sum(map(abs, u_t)) / n

        def at(l: mpf, u: mpf) -> tuple[mpf, mpf, mpf, mpf]:
            l, u = limited(name, alpha, l, u, *limits)
            return *weight_and_value(name, alpha, l, u), 1 + abs(l) + min(abs(l - u), 100)

        g, value, size, exponents = at(l, u)
        l_error, u_error = eps * (n + 2) * l_size, eps * ((n + 3) * u_size + l_size)
        corners = [at(l + i * l_error, u + j * u_error) for i in (-1, 1) for j in (-1, 1)]
        g_change, value_change = (max(abs(corner[i] - (g, value)[i]) for corner in corners) for i in (0, 1))
        rounding = 8 * eps * exponents
        floor = 1e10 * torch.finfo(result.loss.dtype).tiny
        spread = n if config.ratio == "sequence" else 1
        where = f"[{row}, {column}] at l={float(l):.9g}, u={float(u):.9g}, where it is"
        error = abs(mpf(float(result.loss[row, column])) * spread - value)
        bound = 1.5 * value_change + rounding * max(size, *(corner[2] for corner in corners)) + floor
        assert error <= bound, f"loss{where} {float(value):.6g}: off by {float(error):.3g}, bound {float(bound):.3g}"
        leaf = torch.finfo(result.gradient.dtype)
        bound = 1.5 * g_change + (rounding + leaf.eps) * max(abs(g), *(abs(corner[0]) for corner in corners))
        bound += floor + leaf.smallest_normal * leaf.eps
        if abs(g) + bound < leaf.max:
            error = abs(mpf(float(result.gradient[row, column])) - g)
            assert error <= bound, (
                f"gradient{where} {float(g):.6g}: off by {float(error):.3g}, bound {float(bound):.3g}"
            )


def check_diagnostics(case: Case, result: Result) -> None:
    """Each diagnostic from its definition, in float64; weights and values, which are checked elsewhere, as they are."""
    config, eps = case.config, torch.finfo(result.loss.dtype).eps
    tokens = case.mask != 0
    l_t = torch.where(tokens, case.log_prob.double() - case.old_log_prob.double(), 0.0)
    advantages = case.advantages if case.advantages.dim() == 2 else case.advantages[:, None]
    u_t = torch.where(tokens, advantages.double() / config.eta, 0.0)
    l, l_size, u, u_size, counted = l_t, l_t.abs(), u_t, u_t.abs(), tokens
    if config.ratio != "token":
        length = tokens.sum(-1, keepdim=True)
        u, u_size = (x.sum(-1, keepdim=True) / length.clamp(min=1) for x in (u, u_size))
        scale = 1 if config.ratio == "sequence" else length.clamp(min=1)
        l, l_size, counted = l.sum(-1, keepdim=True) / scale, l_size.sum(-1, keepdim=True) / scale, length > 0
    limited = saturate(config.divergence, config.alpha, u, config.max_log_weight) != u
    mass = torch.where(counted, u.clamp(max=config.max_log_weight).exp(), 0.0)
    mass, mass_size = (x.sum(-1) / counted.sum(-1).clamp(min=1) for x in (mass, mass * (1 + u_size)))

    def mean(x: Tensor, where: Tensor) -> float:
        return float(torch.where(where, x.double(), 0.0).sum() / where.sum().clamp(min=1))

    weight, value, good, bad = result.weight, result.value, counted & (u > 0), counted & (u < 0)
    # name -> what it is, and the mean size of what it sums
    expected = {
        "ppo_kl": (mean(-l_t, tokens), mean(l_t.abs(), tokens)),
        "divergence": (mean(value, counted), mean(value.abs(), counted)),
        "log_ratio_abs_max": (float(l.abs().amax()) if l.numel() else 0.0, float(l_size.amax()) if l.numel() else 0.0),
        "weight_pos": (mean(weight, good), mean(weight.abs(), good)),
        "weight_neg": (mean(weight, bad), mean(weight.abs(), bad)),
        "retracting_frac": (mean(weight > 0, good), 1.0),
        "target_mass": (mean(mass, counted.any(-1)), mean(mass_size, counted.any(-1))),
        "saturated_frac": (mean(limited | (l.abs() > config.max_log_ratio), counted), 1.0),
    }
    assert list(expected) == list(DIAGNOSTICS)
    # Within rounding of 0 or of a limit, the inputs do not say on which side a number lies.
    undecided = {
        "saturated_frac": [(l.abs() - config.max_log_ratio, l_size), (u.abs() - config.max_log_weight, u_size)],
        "weight_pos": [(u, u_size)],
        "weight_neg": [(u, u_size)],
        "retracting_frac": [(u, u_size)],
    }
    for (name, (exact, size)), got in zip(expected.items(), result.diagnostics.tolist(), strict=True):
        near = [(x.abs() < 64 * eps * of) & counted & (of > 0) for x, of in undecided.get(name, [])]
        if not any(bool(one.any()) for one in near):
            bound = eps * (64 + counted.numel()) * size + torch.finfo(result.loss.dtype).tiny
            assert abs(got - exact) <= bound, f"{name} is {got:.9g}, should be {exact:.9g}, bound {bound:.3g}"


def check(case: Case) -> None:
    """Finite, exact, blind to what is masked, repeatable, and nothing of the input changed."""
    before = [x.clone() for x in case.tensors]
    versions = [x._version for x in case.tensors]
    result = evaluate(case)

    assert result.loss.isfinite().all()
    assert result.weight.isfinite().all()
    assert result.diagnostics.isfinite().all()
    if case.log_prob.dtype != torch.float16:  # which ends at 65504: larger weights are inf there (docs/numerics.md)
        assert result.gradient.isfinite().all()
    assert not result.gradient.isnan().any()

    masked = case.mask == 0
    assert not result.loss[masked].any()
    assert not result.gradient[masked].any()

    clean = result
    if not all(x.is_contiguous() for x in case.tensors):
        assert result.same_bits(evaluate(case))
        clean = evaluate(case.contiguous())
    # once more, with junk in the masked slots: the same bits, so the numbers depend on nothing else than the rest
    assert clean.same_bits(evaluate(case.dirty()))

    for x, copy, version in zip(case.tensors, before, versions, strict=True):
        assert torch.equal(x, copy)
        assert x._version == version

    counted = case.mask.nonzero().tolist()
    check_diagnostics(case, result)
    for row, column in random.Random(case.seed).sample(counted, min(2, len(counted))):
        check_against_50_digits(case, result, row, column)
