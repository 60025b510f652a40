"""The loss straight from hidden states and LM head: the logits of a few hundred tokens at a time, never all of them.

The gradient of the loss in each log-prob is known in closed form, and an aggregate is linear in the losses. So the
forward pass computes every gradient, and the backward pass only multiplies them by the incoming gradient. FSDP and
ZeRO have gathered the weight in the forward pass, and nothing needs it after that.

_one_pass    computes logits, log-probs and gradients chunk by chunk
_by_slices   computes all log-probs first, then the gradients, one slice of the vocabulary after the other

`_by_slices` computes the logits twice. It serves a weight whose products are of a half type: `_one_pass` would need a
sum in float32 as large as the weight, while a slice needs a sum as large as a slice.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import Diagnostics
from verl_lad.objective.loss import check_shapes, closed_form

LOSS_AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
CHUNK_BYTES = 100e6
"""Least size of the logits that exist at a time by default: a fraction of an LM head, and enough for fast products."""
CHUNK_MULTIPLE = 64
"""Default chunks are a multiple of this many tokens, so that they fill the tiles of a GPU's matrix products."""
VOCABULARY_SLICE = 2**13
"""Rows of the weight whose gradient `_by_slices` computes at a time."""


def aggregation_weights(
    response_mask: Tensor,
    loss_agg_mode: str,
    num_tokens: int | Tensor | None = None,
    num_responses: int | Tensor | None = None,
    horizon: int | None = None,
) -> Tensor:
    """Return the factor of each response's summed loss in the aggregate: loss = sum_b w_b sum_t loss[b, t].

    Args:
        response_mask: (B, T) bool or 0/1.
        loss_agg_mode: one of LOSS_AGG_MODES, as verl names them. TRL's bnpo and dapo are token-mean, its grpo is
            seq-mean-token-mean, its dr_grpo is seq-mean-token-sum-norm.
        num_tokens: tokens of the global batch, for token-mean; None: those of this mask.
        num_responses: responses of the global batch, for the seq- modes; None: those with at least one token here.
        horizon: divisor of seq-mean-token-sum-norm; None: T.

    Returns:
        (B,) float32; 0 for a response without tokens.

    Raises:
        ValueError: on an unknown mode.
    """
    if loss_agg_mode not in LOSS_AGG_MODES:
        raise ValueError(f"loss_agg_mode={loss_agg_mode!r} is not allowed: one of {', '.join(LOSS_AGG_MODES)}")
    length = response_mask.bool().sum(-1)
    counts = (length > 0).float()
    if loss_agg_mode == "token-sum":
        return counts
    if loss_agg_mode == "token-mean":
        return counts / (length.sum().clamp(min=1) if num_tokens is None else num_tokens)
    weights = counts / (counts.sum().clamp(min=1) if num_responses is None else num_responses)
    if loss_agg_mode == "seq-mean-token-mean":
        return weights / length.clamp(min=1)
    if loss_agg_mode == "seq-mean-token-sum-norm":
        return weights / (horizon or max(1, response_mask.shape[-1]))
    return weights


@dataclass(frozen=True)
class LADLinearLoss:
    """Hold the result of `lad_linear_loss`.

    Attributes:
        loss: scalar; carries the gradient.
        log_prob: (B, T) log pi_theta of the labels, 0 where masked; without gradient.
        diagnostics: name -> (sum, count), as `lad_loss` returns them.
    """

    loss: Tensor
    log_prob: Tensor
    diagnostics: Diagnostics


class _Rows(NamedTuple):
    """What a weight is computed from, and the factor of each token's loss in the aggregate; (R, L) each.

    A row holds the tokens that share a weight: a response, or a single token for ratio="token".
    """

    log_prob: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    mask: Tensor
    factors: Tensor

    def grad_log_prob(self, config: LADConfig) -> Tensor:
        """Return the gradient of the aggregate in each log-prob, (R * L,)."""
        weight = closed_form(self.log_prob, self.old_log_prob, self.advantages, self.mask, config).weight
        return (weight * self.factors).to(self.log_prob.dtype).flatten()


class _Softmax(NamedTuple):
    """Softmax exp / total of a chunk's logits, (n, V) / (n, 1), and the slope of the soft cap, (n, V), if any."""

    exp: Tensor
    total: Tensor
    slope: Tensor | None


class _Head(NamedTuple):
    """logits = softcap tanh((hidden @ weight.T + bias) / softcap) / temperature; weight (V, H), bias (V,) or None."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    temperature: float

    def logits(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (n, V) logits of (n, H) hidden states in float32 or float64, and the slope of the soft cap if any."""
        logits = (hidden @ self.weight.t()).to(torch.promote_types(hidden.dtype, torch.float32))
        if self.bias is not None:
            logits += self.bias
        slope = None
        if self.softcap is not None:
            tanh = logits.div_(self.softcap).tanh_()
            logits = tanh * self.softcap
            slope = tanh.square_().neg_().add_(1)
        if self.temperature != 1:
            logits /= self.temperature
        return logits, slope


class _Batch(NamedTuple):
    """All that the gradients are computed from. N = B * T; a chunk is given as (n,) indices of tokens.

    Attributes:
        head: in the type of the products.
        states: (N, H) hidden states in the same type.
        labels: (N,), counted from the first word of `head`; one below 0 or from V on is not among its words.
        tokens: indices of the tokens that count, ascending.
        rows: (B, T) each; `softmax` writes rows.log_prob.
        log_total: (N,) log of the sum of exp(logits); `softmax` writes it.
    """

    head: _Head
    states: Tensor
    labels: Tensor
    tokens: Tensor
    rows: _Rows
    log_total: Tensor
    chunk_size: int
    config: LADConfig

    def softmax(self, chunk: Tensor) -> _Softmax:
        """Compute the softmax of a chunk, and write its log-probs."""
        logits, slope = self.head.logits(self.states[chunk])
        label_logits = logits.gather(-1, self.labels[chunk].unsqueeze(-1))
        largest = logits.amax(-1, keepdim=True)
        exp = logits.sub_(largest).exp_()
        total = exp.sum(-1, keepdim=True)
        log = total.log()
        self.rows.log_prob.view(-1)[chunk] = (label_logits - largest - log).squeeze(-1)
        self.log_total[chunk] = (largest + log).squeeze(-1)
        return _Softmax(exp, total, slope)

    def write_log_probs(self, tokens: Tensor) -> None:
        """Write the log-probs of any number of tokens, a chunk at a time."""
        for chunk in tokens.split(self.chunk_size):
            self.softmax(chunk)

    def softmax_again(self, chunk: Tensor) -> _Softmax:
        """Compute it once more, possibly of a slice of the words only."""
        logits, slope = self.head.logits(self.states[chunk])
        log_total = self.log_total[chunk].unsqueeze(-1)
        return _Softmax(logits.sub_(log_total).exp_(), torch.ones_like(log_total), slope)


class _Gradients(NamedTuple):
    """Sums for the gradients of hidden states (N, H), weight (V, H) and bias (V,); None where none is needed."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    def add(self, batch: _Batch, chunk: Tensor, softmax: _Softmax, grad_log_prob: Tensor) -> None:
        """Add what a chunk contributes; uses up `softmax`. grad_log_prob is (n,), the gradient of each log-prob."""
        exp, total, slope = softmax
        grad = (grad_log_prob / batch.head.temperature).unsqueeze(-1)
        labels, last = batch.labels[chunk].unsqueeze(-1), exp.shape[-1] - 1
        grad_label = torch.where((labels >= 0) & (labels <= last), grad, 0.0)
        grad_logits = exp.mul_(-grad / total).scatter_add_(-1, labels.clamp(0, last), grad_label)
        if slope is not None:
            grad_logits.mul_(slope)
        if self.bias is not None:
            self.bias.add_(grad_logits.sum(0))
        states = batch.states[chunk]
        grad_logits = grad_logits.to(states.dtype)
        if self.hidden is not None:
            self.hidden[chunk] += grad_logits @ batch.head.weight
        if self.weight is None:
            return
        if self.weight.dtype == states.dtype:  # no room for a product as large as the weight
            self.weight.addmm_(grad_logits.t(), states)
        else:
            self.weight.add_(grad_logits.t() @ states)


def _one_pass(batch: _Batch, gradients: _Gradients) -> None:
    """Write all log-probs and add all gradients, with logits computed once, or twice for a row longer than a chunk."""
    rows = batch.rows
    if batch.config.ratio == "token":
        rows = _Rows(*(matrix.reshape(-1, 1) for matrix in rows))
    for first, stop, span in _spans(rows.mask.sum(-1), batch.chunk_size):
        some_rows = _Rows(*(matrix[first:stop] for matrix in rows))
        _add_rows(batch, gradients, some_rows, first * rows.mask.shape[1], batch.tokens[span])


def _add_rows(batch: _Batch, gradients: _Gradients, rows: _Rows, offset: int, tokens: Tensor) -> None:
    """Write log-probs and add gradients of `rows`: `offset` slots stand before them, `tokens` are those that count."""
    if len(tokens) <= batch.chunk_size:
        softmax = batch.softmax(tokens)
        gradients.add(batch, tokens, softmax, rows.grad_log_prob(batch.config)[tokens - offset])
        return
    batch.write_log_probs(tokens)
    grad_log_prob = rows.grad_log_prob(batch.config)
    for chunk in tokens.split(batch.chunk_size):
        gradients.add(batch, chunk, batch.softmax_again(chunk), grad_log_prob[chunk - offset])


def _by_slices(batch: _Batch, gradients: _Gradients) -> None:
    """Write all log-probs, then add all gradients, with logits computed twice and each sum rounded to its type once."""
    batch.write_log_probs(batch.tokens)
    grad_log_prob = batch.rows.grad_log_prob(batch.config)
    for first in range(0, len(batch.head.weight), VOCABULARY_SLICE):
        _add_words(batch, gradients, slice(first, first + VOCABULARY_SLICE), grad_log_prob)


def _add_words(batch: _Batch, gradients: _Gradients, words: slice, grad_log_prob: Tensor) -> None:
    """Add the gradients that pass through the logits of `words`, given the gradient of each log-prob, (N,)."""
    weight, bias = batch.head.weight[words], batch.head.bias
    part = batch._replace(
        head=batch.head._replace(weight=weight, bias=None if bias is None else bias[words]),
        labels=batch.labels - words.start,
    )
    sums = _Gradients(
        hidden=gradients.hidden,
        weight=None if gradients.weight is None else torch.zeros_like(weight, dtype=batch.log_total.dtype),
        bias=None if gradients.bias is None else gradients.bias[words],
    )
    for chunk in batch.tokens.split(batch.chunk_size * len(batch.head.weight) // len(weight)):
        sums.add(part, chunk, part.softmax_again(chunk), grad_log_prob[chunk])
    if gradients.weight is not None and sums.weight is not None:
        gradients.weight[words] = sums.weight


def _sums_fit(dtype: torch.dtype, weight_needs_gradient: bool) -> bool:
    """Say whether `_one_pass` can sum the gradients in `dtype`, the type of the products, without loss."""
    return dtype == torch.promote_types(dtype, torch.float32) or not weight_needs_gradient


class _LinearLoss(torch.autograd.Function):
    """Return a loss whose gradients are given: backward multiplies them by the incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Tensor,
        gradients: _Gradients,
        unit: Tensor,
    ) -> Tensor:
        """Keep the gradients, given in units of `unit`, and return `loss`."""
        ctx.gradients, ctx.unit, ctx.shape = gradients, unit, hidden.shape
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients in place, hand them over, and forget them."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "lad_linear_loss has a closed-form first derivative only: backward with create_graph=True is not "
                "supported; compute the log-probs yourself and use lad_loss_reference for second derivatives"
            )
        if ctx.gradients is None:
            raise RuntimeError(
                "lad_linear_loss supports one backward pass: its gradients, as large as the LM head, are scaled in "
                "place and handed over; retain_graph=True does not keep them"
            )
        factor = grad_output * ctx.unit
        hidden, weight, bias = (
            None if x is None else x.mul_(factor).to(dtype) for x, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        ctx.gradients = None
        return None if hidden is None else hidden.view(ctx.shape), weight, bias, None, None, None


def lad_linear_loss(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    old_log_prob: Tensor | None,
    advantages: Tensor,
    response_mask: Tensor,
    config: LADConfig | None = None,
    *,
    response_weights: Tensor,
    token_weights: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> LADLinearLoss:
    """Compute sum_b response_weights[b] sum_t lad_loss[b, t] from hidden states, without the (B, T, V) logits.

    The result equals `lad_loss` on log_softmax of softcap tanh((hidden @ lm_head_weight.T + bias) / softcap) /
    temperature. The logits of at most `chunk_size` tokens exist at a time, and only of tokens that count. They are
    computed once, with two exceptions that compute them twice: a response of more than chunk_size tokens for
    ratio="sequence" and "geometric", and an LM head that needs a gradient while products are of a half type. The
    function waits for the device twice, to learn where the tokens are and how many there are in each row.

    Args:
        hidden: (B, T, H) hidden states in front of the LM head, of the positions that predict `labels`.
        lm_head_weight: (V, H). Used in the type of `hidden`, or that of autocast.
        labels: (B, T) token ids of the responses; anything where masked.
        old_log_prob: (B, T) log pi_old of the labels; None: the log-probs of this very policy (an on-policy step).
        advantages: as for `lad_loss`.
        response_mask: as for `lad_loss`.
        config: the settings; LADConfig() if None.
        response_weights: (B,) factors without gradient; `aggregation_weights` makes those of the usual aggregations.
        token_weights: (B, T) factors without gradient, such as importance weights; anything where masked.
        bias: (V,) of the LM head.
        softcap: bound of the logits, as in Gemma 2.
        temperature: divisor of the logits, the one that the responses were sampled with.
        chunk_size: tokens whose logits, V numbers each, exist at a time; None: as CHUNK_BYTES says.

    Returns:
        Loss, log-probs and diagnostics. The loss supports one backward pass: no second order, no retain_graph.

    Raises:
        ValueError: on shapes that do not fit, and on a softcap, temperature or chunk_size that is not positive.
    """
    config = config or LADConfig()
    _check(hidden, lm_head_weight, labels, bias, response_weights, token_weights)
    check_shapes(hidden[..., 0], labels if old_log_prob is None else old_log_prob, advantages, response_mask)
    for name, value in (("softcap", softcap), ("temperature", temperature), ("chunk_size", chunk_size)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} is not allowed: greater than 0")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    wide = torch.promote_types(dtype, torch.float32)
    if chunk_size is None:
        multiples = CHUNK_BYTES / (CHUNK_MULTIPLE * wide.itemsize * max(1, len(lm_head_weight)))
        chunk_size = CHUNK_MULTIPLE * math.ceil(multiples)
    leaves = (hidden, lm_head_weight, bias)
    needed = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in leaves]
    with torch.no_grad(), torch.autocast(device, enabled=False):
        mask = response_mask.bool()
        log_prob = torch.zeros(mask.shape, dtype=wide, device=hidden.device)
        # In units of the largest factor, so that the gradients of the logits are not too small for a half type.
        response_weights = response_weights.to(wide)
        unit = response_weights.abs().max() if response_weights.numel() else response_weights.new_ones(())
        unit = torch.where(unit > 0, unit, 1.0)
        factors = (response_weights / unit).unsqueeze(-1).expand(mask.shape)
        if token_weights is not None:
            factors = torch.where(mask, factors * token_weights, 0.0)
        rows = _Rows(
            log_prob=log_prob,
            old_log_prob=log_prob if old_log_prob is None else old_log_prob,
            advantages=(advantages.unsqueeze(-1) if advantages.dim() == 1 else advantages).expand(mask.shape),
            mask=mask,
            factors=factors,
        )
        states = hidden.to(dtype).flatten(0, 1)
        batch = _Batch(
            head=_Head(lm_head_weight.to(dtype), bias, softcap, temperature),
            states=states,
            labels=labels.flatten(),
            tokens=mask.flatten().nonzero().squeeze(-1),
            rows=rows,
            log_total=torch.zeros_like(log_prob).flatten(),
            chunk_size=chunk_size,
            config=config,
        )
        one_pass = _sums_fit(dtype, needed[1])
        sum_dtypes = (dtype, dtype, wide) if one_pass else (wide, lm_head_weight.dtype, wide)
        sums = zip((states, lm_head_weight, bias), sum_dtypes, needed, strict=True)
        gradients = _Gradients(
            *(torch.zeros_like(x, dtype=d) if need and x is not None else None for x, d, need in sums)
        )
        if not any(needed):
            batch.write_log_probs(batch.tokens)
        elif one_pass:
            _one_pass(batch, gradients)
        else:
            _by_slices(batch, gradients)
        matrix, _, diagnostics = closed_form(*rows[:4], config)
        loss = (matrix * factors).sum() * unit
    loss = _LinearLoss.apply(hidden, lm_head_weight, bias, loss, gradients, unit)
    return LADLinearLoss(loss, log_prob, diagnostics)


def _check(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    response_weights: Tensor,
    token_weights: Tensor | None,
) -> None:
    """Raise ValueError unless the shapes fit."""
    if hidden.dim() != 3 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"hidden must be (B, T, H) and lm_head_weight (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    tokens, responses, vocabulary = hidden.shape[:2], hidden.shape[:1], weight.shape[:1]
    for name, x, form, shape in (
        ("labels", labels, "(B, T)", tokens),
        ("bias", bias, "(V,)", vocabulary),
        ("response_weights", response_weights, "(B,)", responses),
        ("token_weights", token_weights, "(B, T)", tokens),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} must be {form} = {tuple(shape)}, got {tuple(x.shape)}")


def _spans(lengths: Tensor, chunk_size: int) -> Iterator[tuple[int, int, slice]]:
    """Yield consecutive rows that hold at most chunk_size tokens together, or a single longer row.

    Args:
        lengths: (rows,) tokens of each row.
        chunk_size: tokens of a span at most.

    Yields:
        First row, row behind the last, and the slice of their tokens among all; no span without tokens.
    """
    ends = lengths.cumsum(0).tolist()
    first = done = 0
    while ends and done < ends[-1]:
        stop = max(bisect_right(ends, done + chunk_size), bisect_right(ends, done) + 1)
        yield first, stop, slice(done, ends[stop - 1])
        first, done = stop, ends[stop - 1]
