"""The statements of docs/numerics.md that test_any_input.py does not make: half types, scaling, what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from verl_lad import LADConfig, lad_loss, lad_loss_reference

from .formulas import IDS, STRICT, loss_matrix

PAGE = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (float32|bfloat16|float16) \| (.*) \|$", PAGE, re.MULTILINE)
TABLED = [(name, 0.5) for name in IDS if not name.startswith("alpha")] + [("alpha", 0.5), ("alpha", 1.5)]


def loss_and_gradient(log_prob: Tensor, old: Tensor, A: Tensor, config: LADConfig) -> tuple[Tensor, Tensor]:
    log_prob = log_prob.detach().clone().requires_grad_()
    loss = lad_loss(log_prob, old, A, torch.ones(log_prob.shape), config)[0]
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    return loss.detach().double(), gradient.double()


def errors(dtype: torch.dtype) -> list[float]:
    """The columns of the table, measured."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(2**14, 1, generator=generator, dtype=torch.float64) * (high - low) + low

    old, l, u = uniform(-15, -1), uniform(-1, 1), uniform(-4, 4)
    log_prob = old + l
    worst = [0.0] * 5
    for name, alpha in TABLED:
        config = LADConfig(divergence=name, alpha=alpha)
        exact = log_prob, old, u * config.eta
        rounded = tuple(x.to(dtype) for x in exact)
        loss, gradient = loss_and_gradient(*rounded, config)
        same_loss, same_gradient = loss_and_gradient(*(x.double() for x in rounded), config)
        exact_loss, exact_gradient = loss_and_gradient(*exact, config)
        apart = torch.ones_like(l, dtype=torch.bool) if name != "tv" else (l - u).abs() > 0.1
        found = (
            (loss - same_loss).abs().max() / same_loss.abs().max(),
            ((gradient - same_gradient).abs() / same_gradient.abs())[same_gradient.abs() > 1e-2].max(),
            (rounded[0].double() - rounded[1].double() - l).abs().max(),
            (loss - exact_loss).abs().max() / exact_loss.abs().max(),
            (gradient - exact_gradient)[apart].abs().max() / exact_gradient.abs().max(),
        )
        worst = [max(one, float(other)) for one, other in zip(worst, found, strict=True)]
    return worst


def test_the_table_has_every_type():
    assert [name for name, _ in ROWS] == ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize(("name", "cells"), ROWS, ids=[name for name, _ in ROWS])
def test_errors_of_half_types_are_within_the_table_and_the_table_is_not_loose(name, cells):
    stated = [float(cell) for cell in cells.split("|")]
    for measured, bound in zip(errors(getattr(torch, name)), stated, strict=True):
        assert bound / 4 < measured <= bound


# --- float16 and gradient scaling -------------------------------------------------------------------------------------

TOKENS = 2**14


def trained_in_float16(scale: float | None) -> tuple[Tensor, Tensor]:
    """A float32 parameter's gradient of a token mean through float16 log-probs, and what it should be."""
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(4, TOKENS // 4, generator=generator)
    A, mask = 1e-3 * torch.randn(4, generator=generator), torch.ones(4, TOKENS // 4)

    def gradient(dtype: torch.dtype, factor: float) -> Tensor:
        parameter = old.half().float().requires_grad_()
        loss = lad_loss(parameter.to(dtype), old.half(), A, mask)[0].mean()
        (g,) = torch.autograd.grad(factor * loss, parameter)
        return g / factor

    return gradient(torch.float16, scale or 1.0), gradient(torch.float32, 1.0)


def test_without_scaling_a_mean_over_many_tokens_underflows_in_float16():
    got, expected = trained_in_float16(None)
    assert ((got - expected).abs() > 0.01 * expected.abs()).float().mean() > 0.5


def test_scaling_by_2_to_the_16_keeps_the_gradient_to_float16s_own_precision():
    got, expected = trained_in_float16(2.0**16)
    torch.testing.assert_close(got, expected, rtol=2**-10, atol=0)


def step_with_grad_scaler(advantage: float, log_ratio: float) -> tuple[Tensor, Tensor, torch.amp.GradScaler]:
    """One SGD step with a learning rate of 1: the parameter before and after, and the scaler."""
    parameter = torch.nn.Parameter(torch.full((4, 8), -2.0))
    before = parameter.detach().clone()
    optimiser, scaler = torch.optim.SGD([parameter], lr=1.0), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    old = torch.full((4, 8), -2.0 - log_ratio).half()
    loss = lad_loss(parameter.half(), old, torch.full((4,), advantage), torch.ones(4, 8))[0].mean()
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    return before, parameter.detach(), scaler


def test_torchs_grad_scaler_takes_the_step_of_float32():
    before, after, scaler = step_with_grad_scaler(advantage=0.02, log_ratio=0.0)
    _, gradient = loss_and_gradient(before, before, torch.full((4,), 0.02), LADConfig())
    torch.testing.assert_close((before - after).double(), gradient / 32, rtol=2**-10, atol=0)
    assert scaler.get_scale() == 2.0**16


def test_torchs_grad_scaler_sees_an_overflow_and_skips_the_step():
    before, after, scaler = step_with_grad_scaler(advantage=-1.0, log_ratio=15.0)
    assert torch.equal(before, after)
    assert scaler.get_scale() == 2.0**15


@pytest.mark.parametrize(("name", "alpha"), STRICT)
def test_a_weight_beyond_float16_is_inf_with_its_sign_and_never_nan(name, alpha):
    l = torch.tensor([[20.0], [-20.0], [0.0], [11.5]]).half()
    A = torch.tensor([-2.0, 2.0, 5.0, 0.0])
    config = LADConfig(divergence=name, alpha=alpha)
    _, g = loss_and_gradient(l, torch.zeros_like(l), A, config)
    _, expected = loss_and_gradient(l.float(), torch.zeros_like(l), A, config)
    assert torch.equal(g, expected.half().double())
    assert not g.isnan().any()


# --- what is refused --------------------------------------------------------------------------------------------------

OLD, A, MASK = torch.zeros(2, 3).double(), torch.tensor([1.0, -1.0]).double(), torch.ones(2, 3)


def total(loss_function, log_prob: Tensor) -> Tensor:
    return loss_function(log_prob, OLD, A, MASK).sum()


def test_a_second_derivative_is_refused_and_the_message_names_the_way_out():
    log_prob = torch.randn(2, 3).double()
    with pytest.raises(RuntimeError, match=r"create_graph=True is not supported; use lad_loss_reference"):
        torch.autograd.functional.hessian(lambda x: total(loss_matrix, x), log_prob)
    assert torch.autograd.gradgradcheck(lambda x: total(lad_loss_reference, x), log_prob.requires_grad_())


TRANSFORMS = {
    "grad": lambda loss, x: torch.func.grad(lambda one: total(loss, one))(x),
    "vmap": lambda loss, x: torch.vmap(lambda one: loss(one, OLD, A, MASK))(torch.stack([x, x])),
    "jvp": lambda loss, x: torch.func.jvp(lambda one: total(loss, one), (x,), (x,)),
    "hessian": lambda loss, x: torch.func.hessian(lambda one: total(loss, one))(x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_torch_func_is_refused_by_lad_loss_and_works_with_the_reference(transform):
    log_prob = torch.randn(2, 3).double()
    with pytest.raises(RuntimeError, match=r"setup_context|vmap over calling|create_graph=True is not supported"):
        TRANSFORMS[transform](loss_matrix, log_prob)
    TRANSFORMS[transform](lad_loss_reference, log_prob)


def test_forward_mode_is_refused_by_lad_loss_and_works_with_the_reference():
    log_prob, tangent = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="forward mode AD"):
            total(loss_matrix, forward_ad.make_dual(log_prob, tangent))
        slope = forward_ad.unpack_dual(total(lad_loss_reference, forward_ad.make_dual(log_prob, tangent))).tangent
    _, gradient = loss_and_gradient(log_prob, OLD, A, LADConfig())
    torch.testing.assert_close(slope, (gradient * tangent).sum(), rtol=1e-12, atol=1e-12)
