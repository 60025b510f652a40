"""The loss on a GPU: the reference's gradient, in every type, the same bits twice, and one synchronisation."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from objective.any_input import any_kind, cases_of, check
from objective.formulas import DIVERGENCES, IDS, RATIOS, loss_matrix
from objective.test_loss import gradient, level, scale_of
from torch import Tensor

from verl_lad import LADConfig, lad_loss, lad_loss_reference
from verl_lad.objective import diagnostic_means

pytestmark = pytest.mark.gpu
JUNK = (float("nan"), float("inf"), float("-inf"))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-5 + 2**-8, torch.float16: 1e-5 + 2**-11}
"""Of max(1, |g|, rho (1 + |d|)): that of tests/objective/test_loss.py, and one rounding of the gradient's own type."""


def batch(dtype: torch.dtype, device: torch.device, rows: int = 64, length: int = 512) -> tuple[Tensor, ...]:
    """Log-probs |l| <= 4, |u| <= 4, a quarter of the slots masked and full of junk."""
    generator = torch.Generator(device).manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * (high - low) + low

    old = uniform(-6, -4, rows, length)
    log_prob = old + uniform(-4, 4, rows, length) / length**0.5
    advantages = uniform(-1, 1, rows, 1).expand(rows, length).contiguous()
    mask = uniform(0, 1, rows, length) < 0.75
    mask[0] = False
    junk = torch.tensor(JUNK, device=device)[torch.randint(3, mask.shape, generator=generator, device=device)]
    log_prob, old, advantages = (torch.where(mask, x, junk).to(dtype) for x in (log_prob, old, advantages))
    return log_prob, old, advantages, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_the_gradient_is_that_of_the_float64_reference(name, alpha, ratio, dtype, device):
    log_prob, old, advantages, mask = batch(dtype, device)
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    _, g = gradient(loss_matrix, log_prob, old, advantages, mask, config)
    double = [torch.where(mask, x.double(), 0.0) for x in (log_prob, old, advantages)]
    _, expected = gradient(lad_loss_reference, *double, mask, config)
    assert g.dtype == dtype
    assert g.isfinite().all()
    assert not g[~mask].any()
    l, u = level(ratio, *double, mask, config.eta)
    compared = mask & ((l - u).abs() > 1e-3) if name == "tv" else mask  # the gradient of tv jumps at d = 0
    # Sums over a response, of up to 512 terms, are float32 sums in another order.
    bound = (TOLERANCE[dtype] + (0 if ratio == "token" else 5e-5)) * scale_of(name, alpha, l, u, expected)
    error = (g.double() - expected).abs()
    assert (error <= bound)[compared].all(), (error / bound)[compared].max()


@pytest.mark.timeout(300)
@settings(max_examples=250, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=any_kind)
def test_a_thousand_random_cases_are_finite_exact_and_blind_to_what_is_masked(kind):
    from .conftest import DEVICE

    for case in cases_of(kind):
        names = ("log_prob", "old_log_prob", "advantages", "mask")
        check(replace(case, **{name: getattr(case, name).to(DEVICE) for name in names}))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_gradient_and_diagnostics_have_the_same_bits_twice(dtype, ratio, device):
    inputs = batch(dtype, device, rows=256, length=2048)
    config = LADConfig(ratio=ratio)
    runs = []
    for _ in range(2):
        loss, g = gradient(loss_matrix, *inputs, config)
        runs.append((loss, g, list(diagnostic_means(lad_loss(*inputs, config)[1]).values())))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][2] == runs[1][2]


@contextlib.contextmanager
def no_synchronisation(device: torch.device) -> Iterator[None]:
    """An error for whoever waits for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_forward_and_backward_wait_for_nothing(name, alpha, ratio, device):
    log_prob, *rest = batch(torch.float32, device)
    leaf = log_prob.requires_grad_()
    with no_synchronisation(device):
        loss, _ = lad_loss(leaf, *rest, LADConfig(divergence=name, alpha=alpha, ratio=ratio))
        loss.sum().backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("loss_agg_mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_verls_policy_loss_synchronises_once_a_micro_batch(loss_agg_mode, device, monkeypatch):
    pytest.importorskip("verl", exc_type=ImportError)
    from adapters.verl.test_policy_loss import actor_config

    from verl_lad.adapters.verl import policy_loss

    log_prob, old_log_prob, advantages, response_mask = batch(torch.float32, device)
    fetched = []

    def means(diagnostics):
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        fetched.append(diagnostic_means(diagnostics))
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        return fetched[-1]

    monkeypatch.setattr(policy_loss, "diagnostic_means", means)
    leaf, config = log_prob.requires_grad_(), actor_config(LADConfig(), loss_agg_mode)
    with no_synchronisation(device):
        loss, metrics = policy_loss.compute_policy_loss_lad(
            old_log_prob=old_log_prob,
            log_prob=leaf,
            advantages=advantages,
            response_mask=response_mask,
            loss_agg_mode=loss_agg_mode,
            config=config,
            rollout_is_weights=torch.ones_like(log_prob),
        )
        loss.backward()
    assert len(fetched) == 1
    assert len(metrics) == len(fetched[0])
    assert leaf.grad.isfinite().all()


def test_the_first_and_last_log_probs_of_every_type_may_be_minus_infinity(device):
    for dtype, A in itertools.product((torch.float32, torch.bfloat16, torch.float16), (2.0, -2.0)):
        log_prob = torch.tensor([[-torch.inf, -0.5, -torch.inf]], dtype=dtype, device=device)
        old, mask = torch.full_like(log_prob, -1.0), torch.ones_like(log_prob)
        loss, g = gradient(loss_matrix, log_prob, old, torch.tensor([A], device=device), mask, LADConfig())
        assert loss.isfinite().all()
        assert g.isfinite().all()
