"""torch.compile of the loss, for users who compile their own step: one graph, the same numbers."""

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss

CONFIG = LADConfig(eta=0.5)
OTHERS = [
    LADConfig(ratio="sequence"),
    LADConfig(ratio="geometric", divergence="hellinger"),
    LADConfig(divergence="tv"),
    LADConfig(divergence="kl", ratio="sequence"),
    LADConfig(divergence="rkl"),
    LADConfig(divergence="jeffreys", max_log_weight=1.0),
    LADConfig(divergence="alpha", alpha=1.5),
]


def batch(rows: int, length: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    log_prob, old = (torch.randn(rows, length, generator=generator).to(dtype) for _ in range(2))
    mask = torch.rand(rows, length, generator=generator) > 0.2
    junk = torch.full((), float("nan"), dtype=dtype)
    return torch.where(mask, log_prob, junk), old, torch.randn(rows, generator=generator), mask


def check_same(compiled, inputs: tuple[Tensor, ...], config: LADConfig) -> None:
    """The same values, gradients and diagnostics, compiled and not."""
    results = []
    for function in (lad_loss, compiled):
        leaf = inputs[0].clone().requires_grad_()
        loss, diagnostics = function(leaf, *inputs[1:], config)
        loss.pow(2).sum().backward()
        results.append((loss.detach(), leaf.grad, *(scalar for pair in diagnostics.values() for scalar in pair)))
    for one, other in zip(*results, strict=True):
        # In a half type they are the same, but for one in a thousand that was rounded to the neighbour.
        half = one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-7 if half else 2e-5, atol=1e-6)
        assert not half or (one != other).sum() <= one.numel() / 1000


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()


def test_the_loss_is_one_graph_with_the_same_values_and_gradients():
    check_same(torch.compile(lad_loss, fullgraph=True), batch(4, 70, torch.float32), CONFIG)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, *OTHERS], ids=lambda c: f"{c.divergence}-{c.ratio}")
def test_so_it_is_for_every_kind_and_for_shapes_that_change(config, dtype):
    compiled = torch.compile(lad_loss, dynamic=True)
    for shape in ((4, 70), (4, 33), (9, 70), (1, 8), (8, 8), (70, 80), (4, 0), (0, 4)):
        check_same(compiled, batch(*shape, dtype), config)
