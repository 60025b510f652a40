"""torch.compile of the loss: one graph, the same numbers. One kind here; the others in `make long`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import lad_responses

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


def check_same(function: Callable, compiled: Callable, inputs: tuple[Tensor, ...], config: LADConfig) -> None:
    results = []
    for call in (function, compiled):
        leaf = inputs[0].clone().requires_grad_()
        output = call(leaf, *inputs[1:], config)
        sums, rest = (output, None) if isinstance(output, Tensor) else (output.loss_sum, output.diagnostics)
        sums.pow(2).sum().backward()
        results.append((sums.detach(), leaf.grad, rest))
    for one, other in zip(*results, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()


def test_the_loss_is_one_graph_with_the_same_values_and_gradients():
    compiled = torch.compile(lad_loss, fullgraph=True)
    check_same(lad_loss, compiled, batch(4, 70, torch.float32), CONFIG)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, *OTHERS], ids=lambda c: f"{c.divergence}-{c.ratio}")
@pytest.mark.parametrize("function", [lad_loss, lad_responses], ids=lambda f: f.__name__)
def test_so_it_is_for_every_kind_and_for_shapes_that_change(function, config, dtype):
    compiled = torch.compile(function, fullgraph=True)
    for shape in ((4, 70), (4, 33), (9, 70)):
        check_same(function, compiled, batch(*shape, dtype), config)
