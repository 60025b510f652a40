"""The loss from hidden states is the loss from the logits, in value and in every gradient, without those logits."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import aggregation_weights, diagnostic_means, lad_linear_loss, linear
from verl_lad.objective.linear import LOSS_AGG_MODES

from .formulas import DIVERGENCES, IDS, RATIOS

B, T, H, V = 5, 7, 6, 29
every_ratio = pytest.mark.parametrize("ratio", RATIOS)
every_mode = pytest.mark.parametrize("mode", LOSS_AGG_MODES)


@pytest.fixture
def _way(request, monkeypatch):
    """How the gradients are computed: the default for float64, or that of half types, by slices of a few words."""
    if request.param == "by slices":
        monkeypatch.setattr(linear, "_sums_fit", lambda *_: False)
    monkeypatch.setattr(linear, "VOCABULARY_SLICE", 8)


def both_ways(test):
    """Runs the test in either."""
    either = pytest.mark.parametrize("_way", ["one pass", "by slices"], indirect=True)
    return pytest.mark.usefixtures("_way")(either(test))


class Head:
    """Hidden states, an LM head and a batch; `naive` is what a trainer does without us."""

    def __init__(self, dtype=torch.float64, bias=False, softcap=None, temperature=1.0, seed=0, vocabulary=V):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.hidden = normal(B, T, H).to(dtype).requires_grad_()
        self.weight = normal(vocabulary, H).to(dtype).requires_grad_()
        self.bias = normal(vocabulary).to(dtype).requires_grad_() if bias else None
        self.softcap, self.temperature = softcap, temperature
        self.mask = torch.rand(B, T, generator=generator) > 0.3
        self.mask[2] = False
        self.labels = torch.randint(vocabulary, (B, T), generator=generator).masked_fill(~self.mask, -100)
        self.advantages = normal(B).to(dtype)
        self.old = (self.log_prob().detach().double() + 0.3 * normal(B, T)).to(dtype)

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def log_prob(self) -> Tensor:
        logits = (self.hidden @ self.weight.t()).to(torch.promote_types(self.hidden.dtype, torch.float32))
        if self.bias is not None:
            logits = logits + self.bias
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        logits = logits / self.temperature
        return logits.log_softmax(-1).gather(-1, self.labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)

    def naive(self, config: LADConfig, weights: Tensor, token_weights: Tensor | float = 1.0) -> Tensor:
        matrix = lad_loss(self.log_prob(), self.old, self.advantages, self.mask, config)[0] * token_weights
        return (matrix.sum(-1) * weights).sum()

    def linear(self, config: LADConfig, weights: Tensor, **changes):
        given = {
            "hidden": self.hidden,
            "lm_head_weight": self.weight,
            "labels": self.labels,
            "old_log_prob": self.old,
            "advantages": self.advantages,
            "response_mask": self.mask,
            "config": config,
            "response_weights": weights,
            "bias": self.bias,
            "softcap": self.softcap,
            "temperature": self.temperature,
            "chunk_size": 4,
            **changes,
        }
        return lad_linear_loss(**given)


def check_same(head: Head, ours: Tensor, theirs: Tensor, rtol=1e-11, atol=1e-12) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=rtol, atol=atol, check_dtype=False)
    got, expected = torch.autograd.grad(ours, head.leaves), torch.autograd.grad(theirs, head.leaves)
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


@both_ways
@pytest.mark.parametrize("chunk_size", [1, 4, 1000, None])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@every_ratio
def test_loss_and_gradients_are_those_of_the_logits_at_once(ratio, bias, softcap, temperature, chunk_size):
    # chunk_size: each token alone; responses longer than a chunk, computed twice; all tokens in one chunk; default
    head = Head(bias=bias, softcap=softcap, temperature=temperature)
    config, weights = LADConfig(ratio=ratio, eta=0.5), aggregation_weights(head.mask, "token-mean").double()
    check_same(head, head.linear(config, weights, chunk_size=chunk_size).loss, head.naive(config, weights))


@both_ways
@every_ratio
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_so_it_is_for_every_divergence(name, alpha, ratio):
    head = Head(bias=True)
    config = LADConfig(ratio=ratio, eta=1.0, divergence=name, alpha=alpha)
    weights = aggregation_weights(head.mask, "seq-mean-token-sum").double()
    check_same(head, head.linear(config, weights).loss, head.naive(config, weights))


@both_ways
@every_mode
@every_ratio
def test_so_it_is_for_every_aggregation_with_weights_of_each_token(ratio, mode):
    head = Head()
    config = LADConfig(ratio=ratio)
    weights = aggregation_weights(head.mask, mode, num_tokens=31, num_responses=9).double()
    token_weights = torch.rand(B, T).double() + 0.5
    ours = head.linear(config, weights, token_weights=token_weights.masked_fill(~head.mask, float("nan")))
    check_same(head, ours.loss, head.naive(config, weights, token_weights))


@both_ways
@every_ratio
def test_per_token_advantages_are_used_as_lad_loss_uses_them(ratio):
    head = Head()
    head.advantages = torch.randn(B, T).double()
    config, weights = LADConfig(ratio=ratio), torch.rand(B).double()
    check_same(head, head.linear(config, weights).loss, head.naive(config, weights))


@both_ways
@every_ratio
def test_old_log_probs_may_be_wider_than_hidden_states(ratio):
    head, config, weights = Head(torch.float32), LADConfig(ratio=ratio), torch.rand(B)
    head.old = head.old.double()
    ours = torch.autograd.grad(head.linear(config, weights).loss, head.leaves)
    theirs = torch.autograd.grad(head.naive(config, weights), head.leaves)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other)


@both_ways
@every_ratio
def test_float32_gradients_differ_by_less_than_1e_5_of_their_norm(ratio):
    head = Head(torch.float32, bias=True, softcap=5.0, temperature=0.8, vocabulary=3000)
    config, weights = LADConfig(ratio=ratio), aggregation_weights(head.mask, "token-mean")
    ours = torch.autograd.grad(head.linear(config, weights).loss, head.leaves)
    theirs = torch.autograd.grad(head.naive(config, weights), head.leaves)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("words", [64, 2**14], ids=lambda x: f"slices-of-{x}")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_ratio
def test_gradients_of_half_types_are_no_worse_than_those_of_the_logits_at_once(ratio, dtype, words, monkeypatch):
    # both against float64 gradients at the same numbers; and with weights so small that float16 would lose them
    monkeypatch.setattr(linear, "VOCABULARY_SLICE", words)
    head = Head(dtype, vocabulary=500)
    exact = Head(dtype, vocabulary=500)
    for name in ("hidden", "weight", "old", "advantages"):
        setattr(exact, name, getattr(head, name).detach().double().requires_grad_(name in ("hidden", "weight")))
    config = LADConfig(ratio=ratio, eta=1.0)
    for scale in (1.0, 1e-9):
        weights = aggregation_weights(head.mask, "token-mean")
        ours = torch.autograd.grad(head.linear(config, scale * weights).loss, head.leaves, torch.tensor(1 / scale))
        theirs = torch.autograd.grad(head.naive(config, weights), head.leaves)
        best = torch.autograd.grad(exact.naive(config, weights.double()), exact.leaves)
        for mine, other, reference in zip(ours, theirs, best, strict=True):
            allowed = 1.5 * (other.double() - reference).norm() + torch.finfo(dtype).eps * reference.norm()
            assert (mine.double() - reference).norm() < allowed


def test_under_autocast_products_are_in_its_type_and_gradients_in_the_leaves():
    head = Head(torch.float32, vocabulary=500)
    config, weights = LADConfig(eta=1.0), aggregation_weights(head.mask, "token-mean")
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = head.linear(config, weights), head.naive(config, weights)
    assert ours.loss.dtype == torch.float32
    got, expected = torch.autograd.grad(ours.loss, head.leaves), torch.autograd.grad(theirs, head.leaves)
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()


@every_ratio
def test_log_probs_and_diagnostics_come_with_it(ratio):
    head, config = Head(), LADConfig(ratio=ratio)
    result = head.linear(config, torch.ones(B).double())
    log_prob = head.log_prob().detach()
    torch.testing.assert_close(result.log_prob, log_prob * head.mask, rtol=1e-12, atol=1e-12)
    assert not result.log_prob.requires_grad
    expected = lad_loss(log_prob, head.old, head.advantages, head.mask, config)[1]
    torch.testing.assert_close(result.diagnostics, expected, rtol=1e-10, atol=1e-12)
    assert diagnostic_means(result.diagnostics) == pytest.approx(diagnostic_means(expected), rel=1e-10, abs=1e-12)


@both_ways
@every_ratio
def test_without_old_log_probs_the_policy_is_its_own(ratio):
    head, config, weights = Head(), LADConfig(ratio=ratio), torch.rand(B).double()
    ours = head.linear(config, weights, old_log_prob=None)
    head.old = head.log_prob().detach()
    check_same(head, ours.loss, head.naive(config, weights))
    assert ours.diagnostics["ppo_kl"][0] == 0


@both_ways
@every_ratio
def test_what_is_masked_is_not_looked_at(ratio):
    head, config, weights = Head(), LADConfig(ratio=ratio), torch.rand(B).double()
    clean = torch.autograd.grad(head.linear(config, weights).loss, head.leaves)
    with torch.no_grad():
        for x in (head.hidden, head.old):
            x[~head.mask] = float("nan")
    dirty = torch.autograd.grad(head.linear(config, weights).loss, head.leaves)
    for mine, other in zip(dirty, clean, strict=True):
        assert torch.equal(mine, other)
    assert not dirty[0][~head.mask].any()


class LargestLogits(TorchDispatchMode):
    """Rows of the largest tensor with a vocabulary in it, the shapes of all that are made, the largest in float32."""

    def __init__(self):
        super().__init__()
        self.rows, self.shapes, self.wide = 0, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor):
                self.shapes.add(tuple(x.shape))
                self.wide = max(self.wide, x.numel() if x.dtype == torch.float32 else 0)
                if x.dim() and x.shape[-1] == V and x.shape != (H, V):  # the weight, transposed
                    self.rows = max(self.rows, x.numel() // V)
        return result


@every_ratio
def test_no_more_than_chunk_size_rows_of_logits_exist(ratio):
    head = Head()
    for chunk_size in (1, 3, 6):
        with LargestLogits() as logits:
            head.linear(LADConfig(ratio=ratio), torch.ones(B).double(), chunk_size=chunk_size).loss.backward()
        assert 0 < logits.rows <= chunk_size


@every_ratio
def test_the_gradient_of_a_half_weight_needs_no_sum_as_large_as_itself(ratio, monkeypatch):
    monkeypatch.setattr(linear, "VOCABULARY_SLICE", 8)
    head = Head(torch.bfloat16)
    for chunk_size in (1, 3):
        with LargestLogits() as made:
            head.linear(LADConfig(ratio=ratio), torch.ones(B), chunk_size=chunk_size).loss.backward()
        assert made.rows <= chunk_size
        assert made.wide <= max(chunk_size * V, B * T * H)
    head.weight = torch.zeros(1000, H, dtype=torch.bfloat16, requires_grad=True)
    with LargestLogits() as made:
        head.linear(LADConfig(ratio=ratio), torch.ones(B), chunk_size=1).loss.backward()
    assert made.wide <= 1000 < head.weight.numel()


@every_ratio
def test_logits_of_masked_tokens_are_not_computed_and_those_of_others_once_if_they_fit(ratio, monkeypatch):
    head, computed = Head(), []
    logits = linear._Head.logits
    monkeypatch.setattr(linear._Head, "logits", lambda self, h: computed.append(len(h)) or logits(self, h))
    head.linear(LADConfig(ratio=ratio), torch.ones(B).double(), chunk_size=T)
    assert sum(computed) == head.mask.sum()


@both_ways
def test_what_needs_no_gradient_costs_none():
    head, config, weights = Head(bias=True), LADConfig(), torch.ones(B).double()
    head.weight.requires_grad_(False)
    with LargestLogits() as made:
        (g,) = torch.autograd.grad(head.linear(config, weights).loss, head.hidden)
    assert (V, H) not in made.shapes - {tuple(head.weight.shape)} or tuple(head.weight.shape) == (V, H)
    head.weight.requires_grad_(True)
    torch.testing.assert_close(g, torch.autograd.grad(head.naive(config, weights), head.hidden)[0])
    with torch.no_grad():
        result = head.linear(config, weights)
    assert not result.loss.requires_grad
    torch.testing.assert_close(result.loss, head.naive(config, weights).detach())


@both_ways
def test_the_incoming_gradient_scales_all_and_accumulates():
    head, config, weights = Head(bias=True), LADConfig(), torch.rand(B).double()
    once = torch.autograd.grad(head.linear(config, weights).loss, head.leaves)
    for _ in range(2):
        (-3 * head.linear(config, weights).loss).backward()
    for leaf, g in zip(head.leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, -6 * g, rtol=1e-12, atol=1e-14)


@both_ways
def test_without_tokens_the_loss_and_all_gradients_are_zero():
    head = Head(bias=True)
    head.mask[:] = False
    result = head.linear(LADConfig(), aggregation_weights(head.mask, "token-mean").double())
    assert result.loss == 0
    assert all(not g.any() for g in torch.autograd.grad(result.loss, head.leaves))
    assert not any(diagnostic_means(result.diagnostics).values())


@both_ways
def test_second_order_is_refused():
    head = Head()
    with pytest.raises(RuntimeError, match="create_graph=True is not supported"):
        torch.autograd.grad(head.linear(LADConfig(), torch.ones(B)).loss, head.leaves, create_graph=True)


@both_ways
def test_a_second_backward_is_refused():
    head = Head()
    loss = head.linear(LADConfig(), torch.ones(B)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="supports one backward pass"):
        loss.backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(B * T, H)}, r"hidden must be \(B, T, H\)"),
        ({"lm_head_weight": torch.zeros(H, V)}, r"lm_head_weight \(V, H\), got \(5, 7, 6\) and \(6, 29\)"),
        ({"bias": torch.zeros(H)}, r"bias must be \(V,\) = \(29,\), got \(6,\)"),
        ({"labels": torch.zeros(B, T + 1, dtype=torch.long)}, r"labels must be \(B, T\) = \(5, 7\), got \(5, 8\)"),
        ({"response_weights": torch.ones(())}, r"response_weights must be \(B,\) = \(5,\), got \(\)"),
        ({"token_weights": torch.ones(B)}, r"token_weights must be \(B, T\) = \(5, 7\), got \(5,\)"),
        ({"old_log_prob": torch.zeros(B)}, r"must share one shape \(B, T\)"),
        ({"advantages": torch.zeros(T)}, r"advantages must be"),
        ({"softcap": 0.0}, r"softcap=0\.0 is not allowed: greater than 0"),
        ({"temperature": -1.0}, r"temperature=-1\.0 is not allowed"),
        ({"chunk_size": 0}, r"chunk_size=0 is not allowed"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_does_not_fit_is_a_value_error(changes, message):
    with pytest.raises(ValueError, match=message):
        Head().linear(LADConfig(), torch.ones(B), **changes)


# --- aggregation ------------------------------------------------------------------------------------------------------

MATRIX = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "keywords", "expected"),
    [
        ("token-mean", {}, 7 / 3),
        ("token-mean", {"num_tokens": 10}, 7 / 10),
        ("token-sum", {}, 7.0),
        ("seq-mean-token-sum", {}, 7 / 2),
        ("seq-mean-token-sum", {"num_responses": 8}, 7 / 8),
        ("seq-mean-token-sum-norm", {}, 7 / 2 / 3),
        ("seq-mean-token-sum-norm", {"horizon": 100}, 7 / 2 / 100),
        ("seq-mean-token-mean", {}, (1.5 + 4) / 2),
        ("seq-mean-token-mean", {"num_responses": torch.tensor(3)}, (1.5 + 4) / 3),
    ],
)
def test_aggregation_by_hand(mode, keywords, expected):
    weights = aggregation_weights(MASK, mode, **keywords)
    assert ((MATRIX * MASK).sum(-1) * weights).sum().item() == pytest.approx(expected)
    assert weights[2] == 0


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match=r"loss_agg_mode='mean' is not allowed: one of token-mean, token-sum, seq-"):
        aggregation_weights(MASK, "mean")
