"""The fast loss against the formula, and everything that a training run may throw at it."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from verl_lad import LADConfig, lad_loss, lad_loss_reference
from verl_lad.objective.loss import closed_form

from .formulas import DIVERGENCES, IDS, RATIOS, loss_matrix, objective, saturate, theta_free

HALF = (torch.bfloat16, torch.float16)
every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
every_ratio = pytest.mark.parametrize("ratio", RATIOS)


def gradient(loss_function, log_prob: Tensor, *rest, upstream: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Loss matrix and d sum(upstream * loss) / d log_prob."""
    log_prob = log_prob.detach().clone().requires_grad_()
    loss = loss_function(log_prob, *rest)
    (g,) = torch.autograd.grad((upstream * loss).sum(), log_prob)
    return loss.detach(), g


def level(ratio: str, log_prob: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, eta: float):
    """l and u at the ratio's level, spread over (B, T); written here again, in the plainest way."""
    l, u = (log_prob - old) * mask, advantages / eta * mask
    if ratio == "token":
        return l, u
    length = mask.sum(-1, keepdim=True).clamp(min=1)
    l = l.sum(-1, keepdim=True)
    if ratio == "geometric":
        l = l / length
    return l.expand_as(mask), (u.sum(-1, keepdim=True) / length).expand_as(mask)


def scale_of(name: str, alpha: float, l: Tensor, u: Tensor, g_reference: Tensor, limit: float = 20.0) -> Tensor:
    """max(1, |g|, rho (1 + |d|)): the size of the terms that the reference subtracts from each other.

    Near d = 0 the gradient is about rho d, yet the reference forms it as a difference of terms of size rho (1 + |d|)
    (for js, X (log X + 1) - X (log((X + 1) / 2) + 1)). Their rounding stays in the difference, so an error relative to
    |g| alone would measure the reference's cancellation, not the fast loss. test_divergences.py measures the latter,
    relative to |g| itself, against mpmath.
    """
    l, u = l.clamp(-limit, limit), saturate(name, alpha, u)
    return torch.stack([torch.ones_like(l), g_reference.abs(), l.exp() * (1 + (l - u).abs())]).amax(0)


@st.composite
def batches(draw, max_d: float, max_u: float, max_rows: int = 3, max_length: int = 4, dtype=torch.float64):
    """(log_prob, old_log_prob, advantages, mask, eta, upstream per row), all exactly representable in dtype."""
    rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    eta = draw(st.sampled_from([0.25, 1.0, 0.0625, 0.1]))

    def matrix(elements, shape=(rows, length)):
        n = shape[0] * shape[1]
        return torch.tensor(draw(st.lists(elements, min_size=n, max_size=n)), dtype=torch.float64).reshape(shape)

    def floats(bound):
        return st.floats(-bound, bound, allow_nan=False)

    distance = st.one_of(floats(max_d), floats(3), floats(1e-6), st.just(0.0))
    u = matrix(st.one_of(floats(max_u), floats(3)))
    old = matrix(st.floats(-6, 0))
    log_prob = old + u + matrix(distance)
    mask = matrix(st.sampled_from([1, 1, 1, 0])).bool()
    upstream = matrix(st.floats(0.1, 1), (rows, 1))
    return *(x.to(dtype) for x in (log_prob, old, u * eta)), mask, eta, upstream.to(dtype)


def check_gradient_parity(name, alpha, ratio, batch, tolerance) -> None:
    log_prob, old, advantages, mask, eta, upstream = batch
    config = LADConfig(eta=eta, divergence=name, alpha=alpha, ratio=ratio)
    _, g = gradient(loss_matrix, log_prob, old, advantages, mask, config, upstream=upstream)
    double = [x.double() for x in (log_prob, old, advantages)]
    _, g_ref = gradient(lad_loss_reference, *double, mask, config, upstream=upstream.double())
    assert g.dtype == log_prob.dtype
    assert g.isfinite().all()
    l, u = level(ratio, *double, mask, eta)
    compared = g_ref.isfinite() & mask
    if name == "tv":
        # tv's gradient jumps at d = 0. Where d is within rounding of it, the sign is not determined by the inputs (in
        # float64, exp(d) = 1 exactly while d is not 0): there is nothing to compare.
        resolution = 4 * torch.finfo(log_prob.dtype).eps * (1 + (l.abs() + u.abs()) * mask.shape[1])
        compared &= (l - u).abs() > resolution
    error = (g.double() - g_ref).abs()
    bound = tolerance * upstream.double() * scale_of(name, alpha, l, u, g_ref / upstream.double())
    assert (error <= bound)[compared].all(), (error / bound)[compared].max() * tolerance
    assert (g == 0)[~mask].all()


@every_ratio
@every_divergence
@settings(max_examples=18)
@given(batch=batches(max_d=40, max_u=40))
def test_gradient_is_the_reference_gradient_to_1e_12_in_float64(name, alpha, ratio, batch):
    # For sequence and geometric, the (B, T) matrix stands for one number a row; the upstream gradient of its own
    # loss_agg_mode is constant within each row, which is what `batches` draws.
    check_gradient_parity(name, alpha, ratio, batch, 1e-12)


@every_ratio
@every_divergence
@settings(max_examples=18)
@given(batch=batches(max_d=8, max_u=8, dtype=torch.float32))
def test_float32_gradient_is_the_float64_reference_gradient_to_1e_5(name, alpha, ratio, batch):
    # 1e-5: an exponent of size 16 to 64 carries 16 to 64 times 6e-8 of rounding into exp; nothing else adds to it.
    check_gradient_parity(name, alpha, ratio, batch, 1e-5)


@every_ratio
@every_divergence
@settings(max_examples=10)
@given(batch=batches(max_d=1e4, max_u=300))
def test_gradient_is_the_reference_gradient_beyond_the_clamp(name, alpha, ratio, batch):
    check_gradient_parity(name, alpha, ratio, batch, 1e-12)


@every_ratio
@every_divergence
@settings(max_examples=18)
@given(batch=batches(max_d=10, max_u=10), shift=st.floats(-3, 3))
def test_value_differs_from_the_reference_by_a_term_without_theta(name, alpha, ratio, batch, shift):
    log_prob, old, advantages, mask, eta, _ = batch
    config = LADConfig(eta=eta, divergence=name, alpha=alpha, ratio=ratio)
    differences, sizes, within = [], [], mask
    for policy in (log_prob, log_prob + shift, old):
        reference = lad_loss_reference(policy, old, advantages, mask, config)
        value = lad_loss(policy, old, advantages, mask, config)[0]
        differences.append(reference - value)
        l, u = level(ratio, policy, old, advantages, mask, eta)
        within = within & (l.abs() <= 20)  # beyond the clamp, the loss is not the objective
        l, u = l.clamp(-20, 20), saturate(name, alpha, u)
        # the size of the terms: rho (1 + |d|), exp(u) (1 + |l| + |u|) and, for alpha, exp(u) X^alpha
        terms = l.exp() * (1 + (l - u).abs()) + u.exp() * (1 + l.abs() + u.abs())
        sizes.append(terms + (alpha * l + (1 - alpha) * u).exp() if name == "alpha" else terms)
    size = torch.stack(sizes).amax(0) * 8
    spread = torch.stack(differences).amax(0) - torch.stack(differences).amin(0)
    assert (spread <= 1e-12 * size)[within].all()
    # and the term is the one that is written in the README
    constant = theta_free(name, alpha, u) / (mask.sum(-1, keepdim=True) if ratio == "sequence" else 1)
    assert ((differences[0] - constant).abs() <= 1e-12 * size)[within].all()


@every_divergence
def test_loss_is_the_hand_written_formula(name, alpha):
    # the package's reference against formulas.py, so that both losses are not wrong in the same way
    l, u = torch.meshgrid(torch.linspace(-4, 4, 9), torch.linspace(-3.05, 3.1, 7), indexing="ij")
    l, u = l.double().requires_grad_(), u.double()
    loss = objective(name, alpha, l, u)
    (g,) = torch.autograd.grad(loss.sum(), l)
    config = LADConfig(eta=0.5, divergence=name, alpha=alpha)
    inputs = (l.detach(), torch.zeros_like(u), u * 0.5, torch.ones_like(u))
    value, fast = gradient(loss_matrix, *inputs, config)
    reference_value, reference = gradient(lad_loss_reference, *inputs, config)
    torch.testing.assert_close(fast, g, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reference, g, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reference_value, loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value, (loss - theta_free(name, alpha, u)).detach(), rtol=1e-12, atol=1e-12)


# --- numbers ----------------------------------------------------------------------------------------------------------

EXTREMES = (-1e4, -700.0, -88.7, -20.0, -3.0, -1e-8, 0.0, 1e-8, 3.0, 20.0, 88.7, 700.0, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@every_ratio
@every_divergence
def test_finite_for_log_ratios_and_targets_up_to_1e4(name, alpha, ratio, dtype):
    pairs = torch.tensor(list(itertools.product(EXTREMES, EXTREMES)), dtype=torch.float64)
    for eta in (1e-3, 0.25, 1.0):
        l = pairs[:, :1].expand(-1, 3).to(dtype)
        old = torch.zeros_like(l)
        A = (pairs[:, 1:] * eta).expand(-1, 3).to(dtype)
        mask = torch.ones_like(l, dtype=torch.bool)
        mask[:, 2] = False
        loss, g = gradient(loss_matrix, l, old, A, mask, LADConfig(eta=eta, divergence=name, alpha=alpha, ratio=ratio))
        assert loss.dtype == (torch.float32 if dtype in HALF else dtype)
        assert g.dtype == dtype
        assert loss.isfinite().all()
        if dtype != torch.float16:
            assert g.isfinite().all()
        else:
            # The gradient itself is float32 and finite; float16 ends at 65504, so only |g| below that can be cast.
            weight = closed_form(l, old, A, mask, LADConfig(eta=eta, divergence=name, alpha=alpha, ratio=ratio)).weight
            assert weight.isfinite().all()
            assert g[(weight.abs() < 6e4).expand_as(g)].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_divergence
def test_finite_for_advantages_up_to_1e4_at_eta_1e_3(name, alpha, dtype):
    # |u| = 1e7: four orders beyond anything that a group-relative advantage can reach
    l, A = torch.meshgrid(
        torch.tensor([-1e4, 0.0, 1e4], dtype=dtype), torch.tensor([-1e4, 0.0, 1e4], dtype=dtype), indexing="ij"
    )
    for limit in (20.0, 21.0):
        config = LADConfig(eta=1e-3, divergence=name, alpha=alpha, max_log_ratio=limit, max_log_weight=limit)
        loss, g = gradient(loss_matrix, l, torch.zeros_like(l), A, torch.ones_like(l), config)
        assert loss.isfinite().all()
        assert g.isfinite().all()


@every_ratio
@every_divergence
def test_a_token_that_the_policy_has_ruled_out_gives_a_finite_loss_and_gradient(name, alpha, ratio):
    # log_prob = -inf at a token that counts: l is clamped like any other
    log_prob = torch.tensor([[-0.5, -torch.inf, -1.0]])
    for A in (2.0, -2.0):
        config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
        loss, g = gradient(loss_matrix, log_prob, torch.full((1, 3), -1.0), torch.tensor([A]), torch.ones(1, 3), config)
        assert loss.isfinite().all()
        assert g.isfinite().all()


@pytest.mark.parametrize("alpha", [1e-40, 1e-31, -1e-31, 1 - 2**-53])
def test_finite_for_every_alpha_that_the_configuration_accepts(alpha):
    try:
        config = LADConfig(divergence="alpha", alpha=alpha)
    except ValueError:
        return  # refused as too close to rkl or kl: as good
    l, A = torch.meshgrid(torch.linspace(-20, 20, 9), torch.linspace(-5, 5, 9), indexing="ij")
    loss, g = gradient(loss_matrix, l, torch.zeros_like(l), A, torch.ones_like(l), config)
    assert g.isfinite().all()
    assert loss.isfinite().all()


JUNK = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@every_ratio
@every_divergence
def test_masked_junk_gives_exact_zeros_and_changes_no_other_bit(name, alpha, ratio, dtype):
    generator = torch.Generator().manual_seed(3)
    log_prob, old, A = (torch.randn(5, 4, generator=generator).to(dtype) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0]])
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    clean = gradient(loss_matrix, log_prob, old, A, mask, config)
    for where, junk in itertools.product(range(3), JUNK):
        inputs = [log_prob, old, A]
        inputs[where] = inputs[where].masked_fill(mask == 0, junk)
        loss, g = gradient(loss_matrix, *inputs, mask, config)
        assert torch.equal(loss, clean[0])
        assert torch.equal(g, clean[1])
        assert (loss[mask == 0] == 0).all()
        assert (g[mask == 0] == 0).all()
    loss, g = gradient(loss_matrix, *(x.masked_fill(mask == 0, float("nan")) for x in (log_prob, old, A)), mask, config)
    assert torch.equal(loss, clean[0])
    assert torch.equal(g, clean[1])


@every_ratio
def test_masked_junk_leaves_the_reference_alone_too(ratio):
    generator = torch.Generator().manual_seed(4)
    log_prob, old, A = (torch.randn(3, 4, generator=generator).double() for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
    config = LADConfig(ratio=ratio)
    clean = gradient(lad_loss_reference, log_prob, old, A, mask, config)
    dirty = gradient(
        lad_loss_reference, *(x.masked_fill(mask == 0, float("nan")) for x in (log_prob, old, A)), mask, config
    )
    assert torch.equal(dirty[0], clean[0])
    assert torch.equal(dirty[1], clean[1])


@every_divergence
@every_ratio
def test_clamp_never_zeroes_the_restoring_force(name, alpha, ratio):
    # targets within the clamp; beyond it: the next test
    l, u = torch.meshgrid(
        torch.tensor([-1e4, -500.0, -21.0, 21.0, 500.0, 1e4]),
        torch.tensor([-15.0, -3.0, 0.0, 3.0, 15.0]),
        indexing="ij",
    )
    l, u = l.reshape(-1, 1).double(), u.reshape(-1, 1).double()
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    _, g = gradient(loss_matrix, l, torch.zeros_like(l), u * config.eta, torch.ones_like(l), config)
    assert torch.equal(g.sign(), (l - u).sign())


@every_divergence
def test_restoring_force_has_the_right_sign_when_the_target_lies_beyond_the_clamp(name, alpha):
    # With l and u both beyond +-max_log_ratio (u = A / eta = 25 is A = 2 at 1/eta = 12.5), the force must still point
    # from l to the (saturated) target: an l past its target must not be pushed farther away.
    l = torch.tensor([25.0, 1e4, 40.0, -25.0, -1e4]).double().unsqueeze(-1)
    u = torch.tensor([22.0, 30.0, 25.0, -22.0, -30.0]).double().unsqueeze(-1)
    config = LADConfig(divergence=name, alpha=alpha)
    _, g = gradient(loss_matrix, l, torch.zeros_like(l), u * config.eta, torch.ones_like(l), config)
    assert torch.equal(g.sign(), (l - saturate(name, alpha, u)).sign())


@every_divergence
@every_ratio
def test_gradient_is_exactly_zero_at_the_target(name, alpha, ratio):
    u = torch.tensor([[-3.0], [-0.25], [0.0], [0.5], [4.0]]).double()
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    _, g = gradient(loss_matrix, u, torch.zeros_like(u), u * config.eta, torch.ones_like(u), config)
    assert (g == 0).all()


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every_ratio
@every_divergence
def test_half_precision_is_computed_in_float32(name, alpha, ratio, dtype):
    generator = torch.Generator().manual_seed(5)
    log_prob, old, A = (torch.randn(4, 6, generator=generator).to(dtype) for _ in range(3))
    mask = torch.rand(4, 6, generator=generator) > 0.3
    config = LADConfig(eta=1.0, divergence=name, alpha=alpha, ratio=ratio)  # |g| < 65504 with these
    loss, g = gradient(loss_matrix, log_prob, old, A, mask, config)
    loss32, g32 = gradient(loss_matrix, log_prob.float(), old.float(), A.float(), mask, config)
    assert loss.dtype == torch.float32
    assert g.dtype == dtype
    assert torch.equal(loss, loss32)
    assert torch.equal(g, g32.to(dtype))


def test_mixed_types_are_computed_in_the_wider_one():
    log_prob, old, A = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2)
    mask = torch.ones(2, 3)
    loss, g = gradient(loss_matrix, log_prob.bfloat16(), old, A, mask)
    assert (loss.dtype, g.dtype) == (torch.float32, torch.bfloat16)
    loss, g = gradient(loss_matrix, log_prob, old.double(), A, mask)
    assert (loss.dtype, g.dtype) == (torch.float64, torch.float32)
    expected, _ = gradient(loss_matrix, log_prob.double(), old.double(), A.double(), mask)
    assert torch.equal(loss, expected)


def test_float64_is_kept():
    # a difference of 1e-12 in l is visible only in float64
    old, A, mask = torch.zeros(1, 1).double(), torch.zeros(1).double(), torch.ones(1, 1)
    _, g = gradient(loss_matrix, old + 1e-12, old, A, mask, LADConfig(divergence="kl"))
    assert g.item() == pytest.approx(1e-12, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.float32, torch.bfloat16], ids=str)
def test_mask_of_any_type_gives_the_same_loss(dtype):
    log_prob, old, A = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    expected = gradient(loss_matrix, log_prob, old, A, mask)
    got = gradient(loss_matrix, log_prob, old, A, mask.to(dtype))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


# --- shapes -----------------------------------------------------------------------------------------------------------


@every_ratio
@every_divergence
def test_advantages_of_every_shape_give_the_same_result(name, alpha, ratio):
    generator = torch.Generator().manual_seed(6)
    log_prob, old = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    A = torch.randn(3, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    by_row = gradient(loss_matrix, log_prob, old, A, mask, config)
    for shaped in (A[:, None], A[:, None].expand(3, 4), A[:, None].repeat(1, 4)):
        loss, g = gradient(loss_matrix, log_prob, old, shaped, mask, config)
        assert torch.equal(loss, by_row[0])
        assert torch.equal(g, by_row[1])


def test_per_token_advantages_are_used_per_token_at_token_level_and_averaged_over_the_response_otherwise():
    log_prob, old, A = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.randn(2, 3).double()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    mean = (A * mask).sum(-1) / mask.sum(-1)
    for ratio in ("sequence", "geometric"):
        got = gradient(loss_matrix, log_prob, old, A, mask, LADConfig(ratio=ratio))
        expected = gradient(loss_matrix, log_prob, old, mean, mask, LADConfig(ratio=ratio))
        torch.testing.assert_close(got[0], expected[0], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-14, atol=1e-14)
    _, g = gradient(loss_matrix, log_prob, old, A, mask)
    for b, t in itertools.product(range(2), range(3)):
        one = (slice(b, b + 1), slice(t, t + 1))
        _, alone = gradient(loss_matrix, log_prob[one], old[one], A[one], mask[one])
        torch.testing.assert_close(g[one], alone, rtol=1e-15, atol=0)


@every_ratio
@every_divergence
def test_empty_masks_empty_rows_and_empty_batches_are_zero(name, alpha, ratio):
    config = LADConfig(divergence=name, alpha=alpha, ratio=ratio)
    for shape in ((3, 4), (0, 4), (3, 0), (0, 0), (1, 1)):
        x = torch.randn(shape)
        loss, g = gradient(loss_matrix, x, torch.randn(shape), torch.randn(shape[0]), torch.zeros(shape), config)
        assert loss.shape == g.shape == torch.Size(shape)
        assert (loss == 0).all()
        assert (g == 0).all()
    # a row without tokens, between others, changes nothing in them
    log_prob, old, A = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3)
    mask = torch.ones(3, 4)
    mask[1] = 0
    loss, g = gradient(loss_matrix, log_prob, old, A, mask, config)
    keep = [0, 2]
    expected = gradient(loss_matrix, log_prob[keep], old[keep], A[keep], mask[keep], config)
    # 1 ulp or so: torch may use vector instructions for one size of batch and scalar ones for another
    torch.testing.assert_close(loss[keep], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(g[keep], expected[1], rtol=1e-6, atol=0)
    assert (loss[1] == 0).all()
    assert (g[1] == 0).all()


@every_divergence
def test_for_responses_of_one_token_all_ratios_agree(name, alpha):
    log_prob, old, A = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(4).double()
    mask = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3)
    token, *others = (
        gradient(loss_matrix, log_prob, old, A, mask, LADConfig(divergence=name, alpha=alpha, ratio=ratio))
        for ratio in RATIOS
    )
    for other in others:
        torch.testing.assert_close(other[0], token[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(other[1], token[1], rtol=1e-14, atol=0)


@every_ratio
def test_non_contiguous_and_expanded_inputs_give_the_same_result(ratio):
    config = LADConfig(ratio=ratio)
    log_prob, old, A = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    expected = gradient(loss_matrix, log_prob, old, A, mask, config)
    strided = [x.t().contiguous().t() for x in (log_prob, old, A, mask)]
    assert not strided[0].is_contiguous()
    for got in (
        gradient(loss_matrix, *strided, config),
        gradient(loss_matrix, strided[0], old, A, strided[3], config),
    ):
        torch.testing.assert_close(got[0], expected[0], rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-14, atol=1e-15)
    # one row of log-probs expanded over the batch: its gradient is the sum over the rows
    row = log_prob[:1].clone().requires_grad_()
    loss = lad_loss(row.expand(4, 3), old[:1].expand(4, 3), A, mask, config)[0]
    (g,) = torch.autograd.grad(loss.sum(), row)
    expected = gradient(loss_matrix, log_prob[:1].repeat(4, 1), old[:1].repeat(4, 1), A, mask, config)
    torch.testing.assert_close(g, expected[1].sum(0, keepdim=True), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(loss.detach(), expected[0], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (((2, 3), (2, 4), (2,), (2, 3)), "(2, 4)"),
        (((2, 3), (2, 3), (2,), (2, 4)), "(2, 4)"),
        (((2, 3), (2, 3), (3,), (2, 3)), "(3,)"),
        (((2, 3), (2, 3), (1, 3), (2, 3)), "(1, 3)"),
        (((2, 3), (2, 3), (), (2, 3)), "()"),
        (((2, 3), (2, 3), (2, 3, 1), (2, 3)), "(2, 3, 1)"),
        (((6,), (6,), (6,), (6,)), "(6,)"),
        (((1, 2, 3), (1, 2, 3), (1,), (1, 2, 3)), "(1, 2, 3)"),
        (((2, 3), (1, 3), (2,), (2, 3)), "(1, 3)"),
    ],
)
def test_wrong_shapes_are_value_errors_that_name_them(shapes, named):
    with pytest.raises(ValueError, match=r"\(B, T\)") as error:
        lad_loss(*(torch.zeros(shape) for shape in shapes))[0]
    assert named in str(error.value)


def test_integer_log_prob_is_a_value_error_that_names_the_type():
    with pytest.raises(ValueError, match=r"log_prob must be floating point, got torch\.int64"):
        lad_loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3))[0]


# --- autograd ---------------------------------------------------------------------------------------------------------


@every_ratio
def test_exactly_one_tensor_is_saved_for_backward(ratio):
    saved = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.shape)
        return x

    log_prob = torch.randn(3, 4, requires_grad=True)
    with saved_tensors_hooks(pack, lambda x: x):
        lad_loss(log_prob, torch.randn(3, 4), torch.randn(3), torch.ones(3, 4), LADConfig(ratio=ratio))[0]
    assert saved == [(3, 4)]


@every_ratio
def test_only_log_prob_gets_a_gradient(ratio):
    config = LADConfig(ratio=ratio)
    log_prob, old, A = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(3, 4, requires_grad=True)
    lad_loss(log_prob, old, A, mask, config)[0].sum().backward()
    assert log_prob.grad is not None
    assert old.grad is None
    assert A.grad is None
    assert mask.grad is None
    assert not lad_loss(log_prob.detach(), old, A, mask, config)[0].requires_grad
    with torch.no_grad():
        assert not lad_loss(log_prob, old, A, mask, config)[0].requires_grad


@every_ratio
def test_no_diagnostic_carries_a_gradient(ratio):
    log_prob = torch.randn(3, 4, requires_grad=True)
    loss, diagnostics = lad_loss(log_prob, torch.randn(3, 4), torch.randn(3), torch.ones(3, 4), LADConfig(ratio=ratio))
    assert loss.requires_grad
    assert not any(scalar.requires_grad for pair in diagnostics.values() for scalar in pair)


@every_ratio
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_no_input_is_modified(ratio, dtype):
    inputs = [torch.randn(3, 4).to(dtype) for _ in range(3)]
    inputs[2][0, 0] = 1e4
    inputs[0][0, 1] = float("nan")
    mask = torch.ones(3, 4).to(dtype)
    mask[0, 1] = 0
    inputs.append(mask)
    copies = [x.clone() for x in inputs]
    versions = [x._version for x in inputs]
    inputs[0].requires_grad_()
    lad_loss(*inputs, LADConfig(ratio=ratio, divergence="hd"))[0].sum().backward()
    for x, copy, version in zip(inputs, copies, versions, strict=True):
        torch.testing.assert_close(x.detach(), copy, rtol=0, atol=0, equal_nan=True)
        assert x._version == version


def test_gradients_accumulate_and_scale_with_the_upstream_gradient():
    log_prob, old, A = torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.randn(3).double()
    mask, upstream = torch.ones(3, 4), torch.randn(3, 4).double()
    _, once = gradient(loss_matrix, log_prob, old, A, mask)
    _, scaled = gradient(loss_matrix, log_prob, old, A, mask, upstream=upstream)
    torch.testing.assert_close(scaled, once * upstream, rtol=1e-15, atol=0)
    leaf = log_prob.clone().requires_grad_()
    for _ in range(2):
        lad_loss(leaf, old, A, mask)[0].sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * once, rtol=1e-15, atol=0)


def test_the_graph_continues_through_log_prob():
    logits = torch.randn(3, 5).double().requires_grad_()
    old, A = torch.randn(3, 1).double(), torch.randn(3).double()
    grads = []
    for loss_function in (loss_matrix, lad_loss_reference):
        log_prob = logits.log_softmax(-1)[:, :1] * 1.0
        grads.append(torch.autograd.grad(loss_function(log_prob, old, A, torch.ones(3, 1)).sum(), logits)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def second_order(combine) -> None:
    log_prob = torch.randn(2, 3).double().requires_grad_()
    loss = lad_loss(log_prob, torch.zeros(2, 3).double(), torch.ones(2).double(), torch.ones(2, 3))[0]
    (g,) = torch.autograd.grad(loss.pow(2).sum() if combine == "square" else loss.sum(), log_prob, create_graph=True)
    penalty = g.square().sum()
    (penalty + log_prob.square().sum() if combine == "sum" else penalty).backward()


@pytest.mark.parametrize("combine", ["alone", "square", "sum"])
def test_double_backward_is_refused_with_an_error(combine):
    # "sum": beside another term that is differentiable, the second order must not silently count as zero
    with pytest.raises(RuntimeError):
        second_order(combine)


def test_default_config_is_ladconfig():
    inputs = (torch.randn(2, 3), torch.randn(2, 3), torch.randn(2), torch.ones(2, 3))
    assert torch.equal(lad_loss(*inputs)[0], lad_loss(*inputs, LADConfig())[0])
    assert torch.equal(lad_loss_reference(*inputs), lad_loss_reference(*inputs, LADConfig()))
