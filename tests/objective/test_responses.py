"""The sums over responses, in blocks, are those of the loss matrix, with the same gradient and diagnostics."""

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import DIAGNOSTICS, lad_diagnostics, lad_responses, lad_terms, loss

from .formulas import DIVERGENCES, IDS, RATIOS

ROWS, LENGTH = 7, 5
every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
every_ratio = pytest.mark.parametrize("ratio", RATIOS)


@pytest.fixture
def _blocks_of_two_rows(monkeypatch):
    monkeypatch.setattr(loss, "CPU_BLOCK", 2 * LENGTH)


def batch(dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    log_prob, old = (torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    mask = torch.rand(ROWS, LENGTH, generator=generator) > 0.3
    mask[3] = False
    return log_prob.to(dtype), old.to(dtype), advantages.to(dtype), mask


@every_ratio
@every_divergence
@pytest.mark.usefixtures("_blocks_of_two_rows")
def test_sums_gradient_and_diagnostics_are_those_of_the_whole_matrix(name, alpha, ratio):
    log_prob, *rest = batch()
    config = LADConfig(eta=0.5, divergence=name, alpha=alpha, ratio=ratio)
    upstream = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    one, other = log_prob.clone().requires_grad_(), log_prob.clone().requires_grad_()
    responses = lad_responses(one, *rest, config)
    terms = lad_terms(other, *rest, config)
    torch.testing.assert_close(responses.loss_sum, terms.loss.sum(-1), rtol=1e-13, atol=1e-13)
    assert responses.length.tolist() == rest[-1].sum(-1).tolist()
    torch.testing.assert_close(responses.diagnostics, lad_diagnostics(terms, config), rtol=1e-12, atol=1e-13)
    (responses.loss_sum * upstream).sum().backward()
    (terms.loss.sum(-1) * upstream).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-13, atol=1e-14)


@every_ratio
@pytest.mark.usefixtures("_blocks_of_two_rows")
def test_the_loss_matrix_does_not_depend_on_the_blocks(ratio):
    log_prob, *rest = batch()
    config = LADConfig(ratio=ratio)
    leaf = log_prob.clone().requires_grad_()
    matrix = lad_loss(leaf, *rest, config)
    torch.testing.assert_close(matrix, lad_terms(log_prob, *rest, config).loss, rtol=1e-14, atol=1e-15)
    matrix.sum().backward()
    expected = lad_terms(log_prob, *rest, config).token_weight
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("rows_per_block", [2, 100])
def test_the_gradient_of_a_half_type_is_rounded_once(rows_per_block, monkeypatch):
    monkeypatch.setattr(loss, "CPU_BLOCK", rows_per_block * LENGTH)
    log_prob, *rest = batch(torch.bfloat16)
    leaf = log_prob.clone().requires_grad_()
    (lad_responses(leaf, *rest).loss_sum * 0.3).sum().backward()
    expected = lad_terms(log_prob, *rest).token_weight * torch.tensor(0.3)
    assert leaf.grad.dtype == torch.bfloat16
    assert torch.equal(leaf.grad, expected.bfloat16())


@every_ratio
@pytest.mark.usefixtures("_blocks_of_two_rows")
def test_token_weights_multiply_the_loss_matrix_and_may_hold_garbage_where_masked(ratio):
    log_prob, old, advantages, mask = batch()
    config = LADConfig(ratio=ratio)
    weights = torch.rand(ROWS, LENGTH).double() + 0.5
    one, other = log_prob.clone().requires_grad_(), log_prob.clone().requires_grad_()
    dirty = weights.masked_fill(~mask, float("nan")).requires_grad_()
    sums = lad_responses(one, old, advantages, mask, config, dirty).loss_sum
    expected = (lad_loss(other, old, advantages, mask, config) * weights).sum(-1)
    torch.testing.assert_close(sums, expected, rtol=1e-13, atol=1e-14)
    sums.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-13)
    assert dirty.grad is None


@every_ratio
@every_divergence
def test_knowing_on_a_cpu_that_no_limit_takes_effect_changes_nothing(name, alpha, ratio, monkeypatch):
    log_prob, *rest = batch(torch.float32)
    config = LADConfig(eta=0.5, divergence=name, alpha=alpha, ratio=ratio)
    assert not lad_terms(log_prob, *rest, config).saturated.any()
    results = []
    for known_at_most in (loss._known_at_most, lambda *_: False):
        monkeypatch.setattr(loss, "_known_at_most", known_at_most)
        leaf = log_prob.clone().requires_grad_()
        responses = lad_responses(leaf, *rest, config)
        responses.loss_sum.sum().backward()
        results.append((responses.sums, leaf.grad, responses.diagnostics))
    for known, unknown in zip(*results, strict=True):
        assert torch.equal(known, unknown)


@every_ratio
@every_divergence
def test_beyond_the_cpu_nothing_waits_for_a_number(name, alpha, ratio):
    # meta tensors have no numbers: whoever asks for one gets an error
    x = torch.empty(ROWS, LENGTH, device="meta")
    leaf = torch.empty_like(x, requires_grad=True)
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    responses = lad_responses(leaf, x, x, torch.empty_like(x, dtype=torch.bool), config)
    (responses.loss_sum.sum() + responses.loss_mean.sum()).backward()
    assert leaf.grad.shape == responses.weight.shape == x.shape
    assert responses.diagnostics.shape == (len(DIAGNOSTICS),)


@every_ratio
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_mean_over_a_response_is_its_sum_over_its_length(ratio, dtype):
    log_prob, *rest = batch(dtype)
    upstream = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    one, other = log_prob.clone().requires_grad_(), log_prob.clone().requires_grad_()
    config = LADConfig(ratio=ratio)
    mean = lad_responses(one, *rest, config).loss_mean
    expected = lad_loss(other, *rest, config).sum(-1) / rest[-1].sum(-1).clamp(min=1)
    assert mean.shape == (ROWS, 1)
    torch.testing.assert_close(mean.squeeze(-1), expected)
    (mean.squeeze(-1) * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_without_responses_there_is_nothing_and_no_error():
    for shape in ((0, 4), (3, 0), (0, 0)):
        x = torch.zeros(shape, requires_grad=True)
        responses = lad_responses(x, torch.zeros(shape), torch.zeros(shape[0]), torch.zeros(shape))
        assert responses.loss_sum.tolist() == [0.0] * shape[0]
        assert responses.length.tolist() == [0] * shape[0]
        assert not responses.diagnostics.any()
        responses.loss_sum.sum().backward()
        assert x.grad.shape == shape


def test_token_weights_of_another_shape_are_refused():
    log_prob, old, advantages, mask = batch()
    with pytest.raises(ValueError, match=r"token_weights must have the shape of log_prob, \(7, 5\), got \(7,\)"):
        lad_responses(log_prob, old, advantages, mask, token_weights=torch.ones(ROWS))


def test_second_order_is_refused():
    log_prob, *rest = batch()
    leaf = log_prob.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="create_graph=True is not supported"):
        torch.autograd.grad(lad_responses(leaf, *rest).loss_sum.sum(), leaf, create_graph=True)
