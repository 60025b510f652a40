"""The loss is evaluated in blocks of responses: how many there are changes nothing."""

import pytest
import torch

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import lad_diagnostics, lad_responses, lad_terms, loss

B, T = 7, 5


@pytest.fixture
def batch():
    gen = torch.Generator().manual_seed(0)
    old = -torch.rand(B, T, generator=gen)
    mask = torch.arange(T) < torch.tensor([[5], [0], [1], [3], [5], [2], [4]])
    log_prob = torch.where(mask, old + 0.5 * torch.randn(B, T, generator=gen), torch.nan)
    return log_prob, old, torch.randn(B, generator=gen), mask


def results(batch, config, factors):
    """Loss matrix, sums, diagnostics, and the gradients of a weighted sum of either."""
    log_prob, old, advantages, mask = batch
    row = torch.linspace(1, 2, B)
    leaf = log_prob.clone().requires_grad_()
    matrix = lad_loss(leaf, old, advantages, mask, config)
    (grad,) = torch.autograd.grad((matrix * row[:, None]).sum(), leaf)
    responses = lad_responses(leaf, old, advantages, mask, config, factors)
    (grad_of_sums,) = torch.autograd.grad((responses.loss_sum * row).sum(), leaf)
    return matrix.detach(), grad, responses.loss_sum.detach(), responses.length, responses.diagnostics, grad_of_sums


@pytest.mark.parametrize("block", [1, T, 2 * T, 3 * T + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_any_size_of_block_gives_the_loss_and_gradient_of_one_block(monkeypatch, batch, ratio, dtype, block):
    batch = tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)
    config = LADConfig(ratio=ratio)
    factors = torch.where(batch[3], torch.linspace(0.5, 2, B * T).view(B, T), torch.nan)
    whole = results(batch, config, factors)
    monkeypatch.setattr(loss, "CPU_BLOCK", block)
    for one, other in zip(whole, results(batch, config, factors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_sums_over_responses_are_those_of_the_matrix_times_the_factors(batch, ratio):
    log_prob, old, advantages, mask = batch
    config = LADConfig(ratio=ratio, divergence="hellinger")
    factors = torch.linspace(0.5, 2, B * T).view(B, T)
    leaf = log_prob.clone().requires_grad_()
    responses = lad_responses(leaf, old, advantages, mask, config, factors)
    matrix = lad_loss(leaf, old, advantages, mask, config) * factors
    torch.testing.assert_close(responses.loss_sum, matrix.sum(-1))
    assert responses.length.tolist() == mask.sum(-1).tolist()
    (sums_gradient,) = torch.autograd.grad(responses.loss_sum.sum(), leaf)
    (matrix_gradient,) = torch.autograd.grad(matrix.sum(), leaf)
    torch.testing.assert_close(sums_gradient, matrix_gradient)
    terms = lad_terms(log_prob, old, advantages, mask, config)
    torch.testing.assert_close(responses.diagnostics, lad_diagnostics(terms, config))


def test_factors_of_another_shape_are_refused(batch):
    with pytest.raises(ValueError, match="token_weights must have the shape"):
        lad_responses(*batch, LADConfig(), torch.ones(B))
