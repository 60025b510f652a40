"""torch.compile of the loss: one graph, the same numbers. Few kinds here; the others in `make long`."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import lad_diagnostics, lad_responses, lad_terms, loss

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


def check_same(calls: list[tuple[Callable, LADConfig]], inputs: tuple[Tensor, ...], *factors: Tensor) -> None:
    """The same values, gradients and diagnostics of functions with their settings."""
    results = []
    for function, config in calls:
        leaf = inputs[0].clone().requires_grad_()
        output = function(leaf, *inputs[1:], config, *factors)
        sums, rest = (output, None) if isinstance(output, Tensor) else (output.loss_sum, output.diagnostics)
        sums.pow(2).sum().backward()
        results.append((sums.detach(), leaf.grad, rest))
    for one, other in zip(*results, strict=True):
        if one is not None:
            # In a half type they are the same, but for one in a thousand that was rounded to the neighbour.
            half = one.dtype == torch.bfloat16
            torch.testing.assert_close(one, other, rtol=2**-7 if half else 2e-5, atol=1e-6)
            assert not half or (one != other).sum() <= one.numel() / 1000


def loss_of_terms(*arguments) -> Tensor:
    return lad_terms(*arguments).loss


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()


def test_the_loss_is_one_graph_with_the_same_values_and_gradients():
    compiled = torch.compile(lad_loss, fullgraph=True)
    check_same([(lad_loss, CONFIG), (compiled, CONFIG)], batch(4, 70, torch.float32))


def test_the_key_compile_changes_neither_values_nor_gradients_nor_diagnostics(monkeypatch):
    torch._dynamo.utils.counters.clear()
    inputs = batch(4, 70, torch.float32)
    check_same([(lad_responses, CONFIG), (lad_responses, replace(CONFIG, compile=True))], inputs)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    monkeypatch.setattr(loss, "CPU_BLOCK", 70)  # the compiled one has a single block whatever its size
    check_same([(lad_responses, CONFIG), (lad_responses, replace(CONFIG, compile=True))], inputs)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiled_terms_have_the_same_diagnostics():
    inputs = batch(4, 70, torch.float32)
    compiled = replace(CONFIG, compile=True)
    one, other = (lad_diagnostics(lad_terms(*inputs, config), config) for config in (CONFIG, compiled))
    torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@torch._dynamo.config.patch(recompile_limit=1)
def test_beyond_torchs_limit_of_recompilations_the_loss_goes_on_with_the_same_numbers():
    for dtype in (torch.float32, torch.bfloat16):  # another type is another graph
        inputs = batch(3, 5, dtype)
        check_same([(lad_responses, CONFIG), (lad_responses, replace(CONFIG, compile=True))], inputs)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, *OTHERS], ids=lambda c: f"{c.divergence}-{c.ratio}")
@pytest.mark.parametrize("function", [lad_loss, lad_responses, loss_of_terms], ids=lambda f: f.__name__)
def test_so_it_is_for_every_kind_and_for_shapes_that_change(function, config, dtype):
    for shape in ((4, 70), (4, 33), (9, 70), (1, 8), (8, 8), (70, 80), (4, 0), (0, 4)):
        inputs = batch(*shape, dtype)
        check_same([(function, config), (function, replace(config, compile=True))], inputs)
        if function is lad_responses:
            factors = torch.where(inputs[3], torch.linspace(0.5, 2, shape[0] * shape[1]).view(shape), torch.nan)
            check_same([(function, config), (function, replace(config, compile=True))], inputs, factors)
