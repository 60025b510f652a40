"""docs/theory.md, section 9: what each ratio level minimises, on trees of short responses."""

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss

from .enumeration import every_strictly_convex_f, kl, minimise, noise, policy, slope, tensor, with_mass

A_SIZE, B_SIZE = 3, 3
LEVELS = pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])


def tree(seed: int) -> tuple[Tensor, Tensor]:
    """pi_old of two-token responses as first (A,) and second (A, B) conditionals."""
    first = policy(A_SIZE, seed)
    second = (noise(A_SIZE * B_SIZE, seed + 50).view(A_SIZE, B_SIZE)).softmax(-1)
    return first, second


def split(joint: Tensor) -> tuple[Tensor, Tensor]:
    first = joint.sum(-1)
    return first, joint / first.unsqueeze(-1)


def joint(model: tuple[Tensor, Tensor]) -> Tensor:
    return model[0].unsqueeze(-1) * model[1]


def token_log_probs(model: tuple[Tensor, Tensor]) -> Tensor:
    """(A * B, 2)."""
    first = model[0].log().unsqueeze(-1).expand(A_SIZE, B_SIZE)
    return torch.stack([first, model[1].log()], -1).view(-1, 2)


def expected_loss(log_prob: Tensor, old, u: Tensor, name: str, alpha: float, ratio: str) -> Tensor:
    """E_{y ~ pi_old} of the loss under the level's own loss_agg_mode; token level: the sum over the two tokens."""
    config = LADConfig(eta=1.0, divergence=name, alpha=alpha, ratio=ratio)
    loss = lad_loss(log_prob, token_log_probs(old), u.flatten(), torch.ones_like(log_prob), config)[0]
    per_response = loss.mean(-1) if ratio == "geometric" else loss.sum(-1)
    return (joint(old).flatten() * per_response).sum()


def gradient(model, old, u: Tensor, name: str, alpha: float, ratio: str) -> Tensor:
    """In the logits of both tables, flattened."""
    first, second = (table.log().requires_grad_() for table in model)
    log_prob = token_log_probs((first.softmax(-1), second.softmax(-1)))
    grads = torch.autograd.grad(expected_loss(log_prob, old, u, name, alpha, ratio), (first, second))
    return torch.cat([g.flatten() for g in grads])


def minimiser(old, u: Tensor, name: str, alpha: float, ratio: str) -> tuple[Tensor, Tensor]:
    def tables(logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits[:A_SIZE].softmax(-1), logits[A_SIZE:].view(A_SIZE, B_SIZE).softmax(-1)

    start = torch.cat([old[0].log(), old[1].log().flatten()])
    return tables(minimise(lambda x: expected_loss(token_log_probs(tables(x)), old, u, name, alpha, ratio), start))


def tilted(old, u: Tensor) -> tuple[Tensor, Tensor]:
    """pi_old exp(u) / Z, split."""
    weight = joint(old) * u.exp()
    return split(weight / weight.sum())


U = noise(A_SIZE * B_SIZE, 9).view(A_SIZE, B_SIZE)


@every_strictly_convex_f
def test_sequence_level_minimiser_is_the_target_over_responses(name, alpha):
    old = tree(0)
    assert gradient(tilted(old, U), old, U, name, alpha, "sequence").abs().max() < 1e-13
    reached = minimiser(old, U, name, alpha, "sequence")
    torch.testing.assert_close(joint(reached), joint(tilted(old, U)), rtol=0, atol=1e-6)


@every_strictly_convex_f
def test_token_level_minimiser_has_the_targets_last_conditionals(name, alpha):
    old = tree(0)
    _, second = minimiser(old, U, name, alpha, "token")
    torch.testing.assert_close(second, tilted(old, U)[1], rtol=0, atol=1e-6)


def power_mean_first(old, u: Tensor, a: float) -> Tensor:
    """pi_old(a) times the mean of exp(u) of power 1 - a over the continuations, normalised; a = 1: exp of the mean."""
    if a == 1:
        mean = (old[1] * u).sum(-1).exp()
    else:
        mean = (old[1] * ((1 - a) * u).exp()).sum(-1) ** (1 / (1 - a))
    return old[0] * mean / (old[0] * mean).sum()


@pytest.mark.parametrize(
    ("name", "alpha"), [("rkl", 0.0), ("hellinger", 0.5), ("kl", 1.0), ("alpha", -1.0), ("alpha", 0.3), ("alpha", 2.0)]
)
def test_token_level_minimiser_weighs_a_first_token_by_a_power_mean_over_its_continuations(name, alpha):
    old = tree(0)
    model = power_mean_first(old, U, alpha), tilted(old, U)[1]
    assert gradient(model, old, U, name, alpha or 0.5, "token").abs().max() < 1e-13
    distance = (model[0] - tilted(old, U)[0]).abs().max()
    assert (distance < 1e-13) if name == "rkl" else (distance > 1e-3)


@every_strictly_convex_f
def test_token_level_minimiser_balances_the_mean_of_f_prime_at_the_first_token(name, alpha):
    old = tree(0)
    first, _ = minimiser(old, U, name, alpha, "token")
    X = (first / old[0]).unsqueeze(-1) * (-U).exp()
    balance = (old[1] * slope(X, name, alpha)).sum(-1)
    assert balance.max() - balance.min() < 1e-5


def test_token_and_sequence_level_have_the_same_expected_gradient_for_rkl_at_every_policy():
    old = tree(0)
    for seed in range(5):
        model = tree(20 + seed)
        token = gradient(model, old, U, "rkl", 0.5, "token")
        torch.testing.assert_close(token, gradient(model, old, U, "rkl", 0.5, "sequence"), rtol=1e-11, atol=1e-13)


@every_strictly_convex_f
def test_token_level_is_exact_where_the_first_token_decides_the_advantage(name, alpha):
    old = tree(0)
    u = noise(A_SIZE, 9).unsqueeze(-1).expand(A_SIZE, B_SIZE)
    assert gradient(tilted(old, u), old, u, name, alpha, "token").abs().max() < 1e-13
    if name != "rkl":
        assert gradient(tilted(old, U), old, U, name, alpha, "token").abs().max() > 1e-4


def test_token_level_prefers_the_safer_of_two_prefixes_with_the_same_mean_weight():
    # both prefixes have E[exp(u)] = 1; after the first all is certain, after the second much depends on the next token
    old = tensor([0.5, 0.25, 0.25]), torch.full((A_SIZE, B_SIZE), 1 / 3, dtype=torch.float64)
    u = torch.stack([torch.zeros(3), tensor([2.5, 0.25, 0.25]).log(), torch.zeros(3)]).double()
    less = [("js", 0.5), ("hellinger", 0.5), ("kl", 0.5), ("jeffreys", 0.5), ("alpha", 1.5)]
    for name, alpha, safer in [(*f, True) for f in less] + [("alpha", -1.0, False), ("rkl", 0.5, None)]:
        first, _ = minimiser(old, u, name, alpha, "token")
        lead = (first[2] / first[1]).log().item()
        assert abs(lead) < 1e-5 if safer is None else (lead > 0.01) == safer, name


# --- the anchored iteration -------------------------------------------------------------------------------------------

ETA = 0.5
SCORES = tensor([1.0, 0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0]).view(A_SIZE, B_SIZE)


def anchored_u(old, base) -> Tensor:
    u = SCORES / ETA - (joint(old) / joint(base)).log()
    return with_mass(u, joint(old))


@LEVELS
@every_strictly_convex_f
def test_anchored_fixed_point_is_the_same_at_every_level(name, alpha, ratio):
    base = tree(0)
    w = tilted(base, SCORES / ETA)
    assert gradient(w, w, anchored_u(w, base), name, alpha, ratio).abs().max() < 1e-14
    for seed in range(5):
        old = tree(30 + seed)
        assert gradient(old, old, anchored_u(old, base), name, alpha, ratio).abs().max() > 1e-4


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@LEVELS
@every_strictly_convex_f
def test_anchored_fixed_point_is_the_same_for_responses_of_different_lengths(name, alpha, ratio, aggregate):
    # three responses: a, of one token, and bc, bd, of two; the loss of a response is a sum or a mean over its tokens
    mask = tensor([[1, 0], [1, 1], [1, 1]])
    config = LADConfig(eta=1.0, divergence=name, alpha=alpha, ratio=ratio)

    def responses(first: Tensor, second: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        return torch.stack([torch.stack([first[0], zero]), *(torch.stack([first[1], x]) for x in second)])

    def largest_gradient(w: Tensor, q: Tensor) -> float:
        first, second = tensor([q[0], 1 - q[0]]), q[1:] / q[1:].sum()
        tables = [first.log().requires_grad_(), second.log().requires_grad_()]
        log_prob = responses(*(table.log_softmax(0) for table in tables))
        loss = lad_loss(log_prob, log_prob.detach(), (w / q).log(), mask, config)[0].sum(-1)  # mass one: E_q[w / q] = 1
        if aggregate == "mean":
            loss = loss / mask.sum(-1)
        return max(g.abs().max().item() for g in torch.autograd.grad((q * loss).sum(), tables))

    w = policy(3, 60)
    assert largest_gradient(w, w) < 1e-15
    for seed in range(5):
        assert largest_gradient(w, policy(3, 70 + seed)) > 1e-3


@pytest.mark.parametrize(("name", "alpha"), [("js", 0.5), ("hellinger", 0.5), ("kl", 0.5), ("alpha", 1.5)])
def test_anchored_token_level_reaches_the_target_in_as_many_exact_updates_as_there_are_tokens(name, alpha):
    base = tree(0)
    w = tilted(base, SCORES / ETA)
    old = tree(31)
    first = minimiser(old, anchored_u(old, base), name, alpha, "token")
    torch.testing.assert_close(first[1], w[1], rtol=0, atol=1e-6)
    assert (first[0] - w[0]).abs().max() > 1e-4
    second = minimiser(first, anchored_u(first, base), name, alpha, "token")
    torch.testing.assert_close(joint(second), joint(w), rtol=0, atol=1e-5)


def test_anchored_token_level_of_kl_needs_three_updates_for_three_tokens():
    # binary tokens; the exact token-level update of kl is a soft value with the mean of u in place of log-mean-exp
    shape = (2, 2, 2)
    base = policy(8, 3, 1.5).view(shape)
    w = (base.log() + noise(8, 4).view(shape)).flatten().softmax(0).view(shape)
    p = policy(8, 5, 1.5).view(shape)
    distances = []
    for _ in range(3):
        u = (w / p).log()
        conditional = [p.sum((1, 2)), p.sum(2) / p.sum((1, 2))[:, None], p / p.sum(2)[..., None]]
        value = [(p * u).sum((1, 2)) / p.sum((1, 2)), (p * u).sum(2) / p.sum(2), u]
        new = [(c.log() + v).softmax(-1) for c, v in zip(conditional, value, strict=True)]
        p = new[0][:, None, None] * new[1][..., None] * new[2]
        distances.append(float(kl(p.flatten(), w.flatten())))
    assert distances[0] > 1e-3
    assert distances[1] > 1e-5
    assert distances[2] < 1e-14


# --- geometric level --------------------------------------------------------------------------------------------------


@every_strictly_convex_f
def test_geometric_level_has_its_zero_at_u_times_the_length_where_that_is_a_policy(name, alpha):
    old = tree(0)
    u = with_mass(2 * U, joint(old)) / 2  # E[exp(2 u)] = 1
    w = tilted(old, 2 * u)
    torch.testing.assert_close(joint(w), joint(old) * (2 * u).exp(), rtol=1e-12, atol=0)
    log_prob = token_log_probs(w).requires_grad_()
    (own,) = torch.autograd.grad(expected_loss(log_prob, old, u, name, alpha, "geometric"), log_prob)
    assert own.abs().max() < 1e-14
    assert gradient(tilted(old, u), old, u, name, alpha, "geometric").abs().max() > 1e-4


@every_strictly_convex_f
def test_geometric_level_has_no_such_zero_at_another_mass(name, alpha):
    old = tree(0)
    u = with_mass(2 * U, joint(old), Z=4.0) / 2
    assert gradient(tilted(old, 2 * u), old, u, name, alpha, "geometric").abs().max() > 1e-4


def test_geometric_level_is_not_convex_in_the_probabilities_for_kl():
    # two responses of two tokens: the first token chooses, the second is certain
    q, u = tensor([0.001, 0.999]), tensor([0.0, -2.0])
    config = LADConfig(eta=1.0, divergence="kl", ratio="geometric")

    def loss(first: float) -> float:
        p = tensor([first, 1 - first])
        certain = torch.zeros(2, dtype=torch.float64)
        log_prob, old = (torch.stack([x.log(), certain], -1) for x in (p, q))
        return (q * lad_loss(log_prob, old, u, torch.ones_like(old), config)[0].mean(-1)).sum().item()

    assert loss(0.5) > (loss(0.4) + loss(0.6)) / 2 + 1e-5


def mean_of_X_term(old, model, ratio: str) -> Tensor:
    """E_{pi_old}[exp(l)], summed over tokens at token level: what c (X - 1) adds, up to c and a constant."""
    l = token_log_probs(model) - token_log_probs(old)
    terms = {"token": l.exp().sum(-1), "sequence": l.sum(-1).exp(), "geometric": l.mean(-1).exp()}
    return (joint(old).flatten() * terms[ratio]).sum()


@LEVELS
def test_canonical_form_is_free_at_token_and_sequence_level_but_not_at_geometric(ratio):
    old = tree(0)
    values = torch.stack([mean_of_X_term(old, tree(40 + seed), ratio) for seed in range(5)])
    constant = {"token": 2.0, "sequence": 1.0, "geometric": None}[ratio]
    if constant is None:
        assert values.max() - values.min() > 0.01
    else:
        torch.testing.assert_close(values, torch.full_like(values, constant), rtol=1e-12, atol=0)
