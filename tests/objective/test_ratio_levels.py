"""Each ratio level is exact under its loss_agg_mode, aggregated by verl's own agg_loss.

The model: three tokens, of which 0 ends the sequence, at most three tokens long; one table of logits per position and
previous token. Its 15 sequences, of lengths 1, 2 and 3, are the batch, padded to three.
"""

import itertools
import os

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss

from .formulas import DIVERGENCES, IDS, STRICT, STRICT_IDS, objective, theta_free

VOCABULARY, LENGTH = 3, 3
ETA = 0.5
every_divergence = pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)


@pytest.fixture(scope="module")
def agg_loss():
    """verl's aggregation. Imported without verl's plugins, and without leaving that setting to other tests."""
    with pytest.MonkeyPatch.context() as patch:
        if "VERL_USE_EXTERNAL_PLUGINS" not in os.environ:
            patch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
        from verl.trainer.ppo.core_algos import agg_loss

    return agg_loss


def all_sequences() -> tuple[Tensor, Tensor]:
    """tokens (N, LENGTH), 0 where padded, and mask (N, LENGTH) int64 as verl's response_mask is."""
    rows = []
    for n in range(1, LENGTH + 1):
        for head in itertools.product(range(1, VOCABULARY), repeat=n - 1):
            for last in range(VOCABULARY) if n == LENGTH else (0,):
                rows.append(([*head, last], n))
    tokens = torch.tensor([y + [0] * (LENGTH - n) for y, n in rows])
    mask = torch.tensor([[1] * n + [0] * (LENGTH - n) for _, n in rows])
    return tokens, mask


TOKENS, MASK = all_sequences()
LENGTHS = MASK.sum(-1)


def model(seed: int) -> Tensor:
    """(LENGTH, VOCABULARY, VOCABULARY) logits by position, previous token and token."""
    return torch.randn(LENGTH, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).double()


def log_probs(logits: Tensor, tokens: Tensor = TOKENS) -> Tensor:
    """(N, LENGTH) log-probability of each token, also of padding (which must not matter)."""
    previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    table = logits.log_softmax(-1)
    return table[torch.arange(LENGTH), previous, tokens]


OLD = log_probs(model(1))
U = torch.randn(len(TOKENS), generator=torch.Generator().manual_seed(2)).double()


def test_the_enumeration_is_complete():
    assert len(TOKENS) == 15
    assert sorted(LENGTHS.unique().tolist()) == [1, 2, 3]
    total = (log_probs(model(0)) * MASK).sum(-1).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-14)


def aggregate(agg_loss, logits, name, alpha, ratio, mode, mask=MASK, tokens=TOKENS, old=OLD, u=U, **kwargs) -> Tensor:
    config = LADConfig(eta=ETA, divergence=name, alpha=alpha, ratio=ratio)
    return agg_loss(lad_loss(log_probs(logits, tokens), old, u * ETA, mask, config)[0], mask, mode, **kwargs)


def rows_of_l(logits: Tensor) -> list[Tensor]:
    """l_t of each sequence's own tokens, as a plain list."""
    difference = log_probs(logits) - OLD
    return [difference[b, : int(n)] for b, n in enumerate(LENGTHS)]


def by_hand(logits: Tensor, name: str, alpha: float, ratio: str) -> tuple[Tensor, Tensor]:
    """(1/B) sum_b L(l_b, u_b) at sequence or geometric level by plain autograd, and its theta-free part."""
    total, constant = torch.zeros(()).double(), torch.zeros(()).double()
    for l_t, u in zip(rows_of_l(logits), U, strict=True):
        l = l_t.sum() if ratio == "sequence" else l_t.mean()
        total = total + objective(name, alpha, l, u)
        constant = constant + theta_free(name, alpha, u)
    return total / len(U), constant / len(U)


def token_by_hand(logits: Tensor, name: str, alpha: float, mode: str) -> tuple[Tensor, Tensor]:
    """The aggregate of the tokens' own L(l_t, u) under verl's mode, written as its documentation says."""
    weights = {
        "token-mean": lambda n: 1 / sum(LENGTHS.tolist()),
        "token-sum": lambda n: 1.0,
        "seq-mean-token-sum": lambda n: 1 / len(U),
        "seq-mean-token-mean": lambda n: 1 / (n * len(U)),
        "seq-mean-token-sum-norm": lambda n: 1 / (len(U) * LENGTH),
    }
    total, constant = torch.zeros(()).double(), torch.zeros(()).double()
    for l_t, u, n in zip(rows_of_l(logits), U, LENGTHS.tolist(), strict=True):
        weight = weights[mode](n)
        total = total + weight * objective(name, alpha, l_t, u.expand_as(l_t)).sum()
        constant = constant + weight * n * theta_free(name, alpha, u)
    return total, constant


def check(aggregated: Tensor, expected: Tensor, constant: Tensor, logits: Tensor) -> None:
    # 1e-12: float64 rounding of sums of 15 to 36 terms of size up to about 10
    (g,) = torch.autograd.grad(aggregated, logits)
    (g_expected,) = torch.autograd.grad(expected, logits)
    assert g_expected.abs().max() > 1e-3
    torch.testing.assert_close(g, g_expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(aggregated.detach(), (expected - constant).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ratio", "mode"), [("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")])
@every_divergence
def test_sequence_level_gradient_and_value_are_those_of_the_mean_of_L_under_its_mode(
    agg_loss, name, alpha, ratio, mode
):
    logits = model(0).requires_grad_()
    check(aggregate(agg_loss, logits, name, alpha, ratio, mode), *by_hand(logits, name, alpha, ratio), logits)


@pytest.mark.parametrize(
    "mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
)
@every_divergence
def test_token_level_gradient_and_value_are_exact_under_every_mode(agg_loss, name, alpha, mode):
    logits = model(0).requires_grad_()
    check(aggregate(agg_loss, logits, name, alpha, "token", mode), *token_by_hand(logits, name, alpha, mode), logits)


@pytest.mark.parametrize(
    ("ratio", "mode"),
    [("token", "token-mean"), ("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")],
)
@every_divergence
def test_gradient_is_the_finite_difference_of_the_aggregate_itself(agg_loss, name, alpha, ratio, mode):
    # the aggregate's own value, as a trainer logs it, and the gradient that the trainer's backward pass computes
    logits = model(0).requires_grad_()
    (g,) = torch.autograd.grad(aggregate(agg_loss, logits, name, alpha, ratio, mode), logits)
    step, point = 1e-4, logits.detach()
    differences = torch.zeros_like(g)
    with torch.no_grad():
        for i in range(g.numel()):
            e = torch.zeros(g.numel()).double()
            e[i] = step
            e = e.view_as(point)

            def along(h, e=e):
                return aggregate(agg_loss, point + h * e, name, alpha, ratio, mode).item()

            # fourth order: the truncation error, about step^4, and rounding, about 1e-16 / step, are both below 1e-11
            differences.view(-1)[i] = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / (12 * step)
    # tv has kinks, but none within 2e-4 of this point: the same bound holds
    torch.testing.assert_close(differences, g, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("ratio", "mode"), [("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")])
def test_torch_gradcheck_of_the_aggregate(agg_loss, ratio, mode):
    logits = model(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: aggregate(agg_loss, x, "js", 0.5, ratio, mode), (logits,), eps=1e-5, atol=1e-8, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("ratio", "mode"),
    [("sequence", "seq-mean-token-mean"), ("geometric", "seq-mean-token-sum"), ("geometric", "token-mean")],
)
def test_a_mode_that_does_not_belong_to_the_ratio_is_another_objective(agg_loss, ratio, mode):
    # the reason for the adapter's warning: responses are weighted by their lengths, so the direction changes
    logits = model(1).requires_grad_()  # pi_theta = pi_old: no single response dominates
    (g,) = torch.autograd.grad(aggregate(agg_loss, logits, "js", 0.5, ratio, mode), logits)
    (g_expected,) = torch.autograd.grad(by_hand(logits, "js", 0.5, ratio)[0], logits)
    cosine = torch.nn.functional.cosine_similarity(g.flatten(), g_expected.flatten(), dim=0)
    assert cosine < 0.999


def test_sequence_under_token_mean_is_its_objective_divided_by_the_mean_length(agg_loss):
    # a factor that is the same for every response of the batch: the direction is right, the size follows the lengths
    logits = model(0).requires_grad_()
    token_mean = aggregate(agg_loss, logits, "js", 0.5, "sequence", "token-mean")
    expected, constant = by_hand(logits, "js", 0.5, "sequence")
    mean_length = sum(LENGTHS.tolist()) / len(U)
    check(token_mean * mean_length, expected, constant, logits)


@pytest.mark.parametrize(("ratio", "mode"), [("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")])
def test_rows_without_tokens_are_not_counted(agg_loss, ratio, mode):
    # verl pads batches with fully masked rows and leaves them out of the mean
    logits = model(0).requires_grad_()
    mask = torch.cat([MASK, torch.zeros(4, LENGTH, dtype=MASK.dtype)])
    padded = aggregate(
        agg_loss,
        logits,
        "js",
        0.5,
        ratio,
        mode,
        mask=mask,
        tokens=torch.cat([TOKENS, TOKENS[:4]]),
        old=torch.cat([OLD, torch.full((4, LENGTH), float("nan")).double()]),
        u=torch.cat([U, torch.full((4,), float("nan")).double()]),
    )
    check(padded, *by_hand(logits, "js", 0.5, ratio), logits)


@pytest.mark.parametrize(
    ("ratio", "mode"),
    [("token", "token-mean"), ("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")],
)
def test_micro_batches_add_up_to_the_whole_batch(agg_loss, ratio, mode):
    logits = model(0).requires_grad_()
    (whole,) = torch.autograd.grad(aggregate(agg_loss, logits, "js", 0.5, ratio, mode), logits)
    parts = torch.zeros_like(whole)
    for rows in torch.arange(len(U)).split(4):
        part = aggregate(
            agg_loss,
            logits,
            "js",
            0.5,
            ratio,
            mode,
            mask=MASK[rows],
            tokens=TOKENS[rows],
            old=OLD[rows],
            u=U[rows],
            batch_num_tokens=int(LENGTHS.sum()),
            global_batch_size=len(U),
        )
        parts += torch.autograd.grad(part, logits)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "alpha"), STRICT, ids=STRICT_IDS)
def test_sequence_level_target_over_all_sequences_has_no_gradient(name, alpha):
    # pi_old exp(u) / Z over sequences is an autoregressive model too; there the expected gradient under pi_old vanishes
    p_old = (OLD * MASK).sum(-1).exp()
    target = p_old * U.exp()
    log_prob = torch.zeros(len(TOKENS), LENGTH).double()
    for b, n in enumerate(LENGTHS):
        for t in range(int(n)):
            prefix = (TOKENS[:, :t] == TOKENS[b, :t]).all(-1) & (t < LENGTHS)
            longer = prefix & (TOKENS[:, t] == TOKENS[b, t])
            log_prob[b, t] = (target[longer].sum() / target[prefix].sum()).log()
    assert (log_prob * MASK).sum(-1).exp().sum().item() == pytest.approx(1.0, abs=1e-13)
    leaf = log_prob.requires_grad_()
    config = LADConfig(eta=ETA, divergence=name, alpha=alpha, ratio="sequence")
    loss = (p_old * lad_loss(leaf, OLD, U * ETA, MASK, config)[0].sum(-1)).sum()
    (g,) = torch.autograd.grad(loss, leaf)
    # in expectation: for every prefix, the gradient with respect to its logits, sum over rows g (1[y] - pi), is zero
    for b, n in enumerate(LENGTHS):
        for t in range(int(n)):
            prefix = (TOKENS[:, :t] == TOKENS[b, :t]).all(-1) & (t < LENGTHS)
            longer = prefix & (TOKENS[:, t] == TOKENS[b, t])
            pull = g[longer, t].sum() - log_prob[b, t].exp() * g[prefix, t].sum()
            assert abs(pull.item()) < 1e-14
    # each row's own gradient: rho f'(1 / Z), zero if Z is one
    Z = target.sum()
    own = lad_loss(leaf, OLD, (U - Z.log()) * ETA, MASK, config)[0]
    (g,) = torch.autograd.grad(own.sum(), leaf)
    assert g.abs().max() < 1e-13
