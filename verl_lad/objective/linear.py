"""The loss straight from hidden states and LM head: the logits of a few hundred tokens at a time, never all of them.

The gradient of the loss in each log-prob is known in closed form (`LADTerms.token_weight`), and the way of aggregating
is linear. So forward computes the logits of a chunk, their log-probs, those weights, and from them at once what the
chunk adds to the gradients of hidden states, weight and bias; backward only multiplies by the incoming gradient.

Where products are of a half type, the gradient of the weight would need a sum as large as the weight in float32, read
and written once a chunk. There all log-probs come first, and then the gradients, by slices of the vocabulary: for one
more product of hidden states and weight, a sum no larger than a slice. All within forward still, where FSDP and ZeRO
have gathered the weight.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import Diagnostics
from verl_lad.objective.loss import check_shapes, closed_form

LOSS_AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
CHUNK_BYTES = 160e6
"""Of the logits that exist at a time by default, in the type of the loss: large enough for the matrix products to run
at their full rate, and a fraction of an LM head (263 tokens of Qwen2.5's 151,936 words in float32)."""
VOCABULARY_SLICE = 2**13
"""Rows of the weight whose gradient is computed at a time, where that is done by slices of the vocabulary."""


def aggregation_weights(
    response_mask: Tensor,
    loss_agg_mode: str,
    num_tokens: int | Tensor | None = None,
    num_responses: int | Tensor | None = None,
    horizon: int | None = None,
) -> Tensor:
    """The factor of each response's summed loss in the aggregate: loss = sum_b w_b sum_t loss[b, t].

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
    """What `lad_linear_loss` returns.

    Attributes:
        loss: scalar; carries the gradient.
        log_prob: (B, T) log pi_theta of the labels, 0 where masked; without gradient.
        diagnostics: name -> (sum, count), on the device.
    """

    loss: Tensor
    log_prob: Tensor
    diagnostics: Diagnostics


@dataclass(frozen=True)
class _Head:
    """logits = softcap tanh((hidden @ weight.T + bias) / softcap) / temperature; weight (V, H), bias (V,) or None."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    temperature: float

    def logits(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """(n, V) of (n, H) hidden states, in float32 or float64, and the derivative of the soft cap if there is one."""
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

    def grad_logits(self, hidden: Tensor, labels: Tensor, log_total: Tensor, grad_log_prob: Tensor) -> Tensor:
        """(n, V) gradient before bias, soft cap and temperature, of some of the words.

        Args:
            hidden: (n, H).
            labels: (n,), counted from the first of these words: below 0, or V and above, the label is another.
            log_total: (n,) logarithm of the sum of exp(logits) over all words.
            grad_log_prob: (n,) gradient of the log-prob of each label.
        """
        logits, slope = self.logits(hidden)
        grad = (grad_log_prob / self.temperature).unsqueeze(-1)
        grad_logits = logits.sub_(log_total.unsqueeze(-1)).exp_().mul_(-grad)
        labels, last = labels.unsqueeze(-1), grad_logits.shape[-1] - 1
        of_label = torch.where((labels >= 0) & (labels <= last), grad, 0.0)
        grad_logits.scatter_add_(-1, labels.clamp(0, last), of_label)
        return grad_logits if slope is None else grad_logits.mul_(slope)

    def softmax(self, hidden: Tensor, labels: Tensor) -> "_Softmax":
        """Of the logits of (n, H) hidden states, in float32 or float64."""
        logits, slope = self.logits(hidden)
        labels = labels.unsqueeze(-1)
        picked, largest = logits.gather(-1, labels), logits.amax(-1, keepdim=True)
        exp = logits.sub_(largest).exp_()
        total = exp.sum(-1, keepdim=True)
        log = total.log()
        log_prob = (picked - largest - log).squeeze(-1)
        return _Softmax(log_prob, largest + log, labels, exp, total, slope, self.temperature)


@dataclass(frozen=True)
class _Softmax:
    """The softmax of a chunk, exp (n, V) / total (n, 1), and log_prob (n,) of its labels, which are (n, 1) here.

    log_total: (n, 1) logarithm of the sum of exp(logits).
    slope: (n, V) derivative of the soft cap, if there is one.
    """

    log_prob: Tensor
    log_total: Tensor
    labels: Tensor
    exp: Tensor
    total: Tensor
    slope: Tensor | None
    temperature: float

    def grad_logits(self, grad_log_prob: Tensor) -> Tensor:
        """(n, V) gradient before bias, soft cap and temperature, from that of log_prob, (n,). Uses `exp` up."""
        grad = (grad_log_prob / self.temperature).unsqueeze(-1)
        grad_logits = self.exp.mul_(-grad / self.total).scatter_add_(-1, self.labels, grad)
        return grad_logits if self.slope is None else grad_logits.mul_(self.slope)


class _Gradients:
    """Those of hidden states (N, H), weight (V, H) and bias (V,), each None if it is not needed.

    Args:
        hidden: in the type of the products.
        weight, bias: the parameters.
        needed: whether hidden, weight and bias need a gradient.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: list[bool]):
        of_hidden, of_weight, of_bias = needed
        self._wide = torch.promote_types(hidden.dtype, torch.float32)
        self.in_one_pass = _in_one_pass(hidden.dtype, of_weight)
        self.hidden = torch.zeros_like(hidden, dtype=None if self.in_one_pass else self._wide) if of_hidden else None
        self.weight = torch.zeros_like(weight, dtype=self._wide if self.in_one_pass else None) if of_weight else None
        self.bias = torch.zeros_like(bias, dtype=self._wide) if bias is not None and of_bias else None

    def add(self, head: _Head, tokens: Tensor, states: Tensor, grad_logits: Tensor) -> None:
        """Adds one chunk, all words at once: indices (n,) of its tokens, their states (n, H), grad_logits (n, V)."""
        self._add(head, tokens, states, grad_logits, slice(None), self.weight)

    def _add(
        self,
        head: _Head,
        tokens: Tensor,
        states: Tensor,
        grad_logits: Tensor,
        words: slice,
        sum_weight: Tensor | None,
    ) -> None:
        """As `add`, of those words, which are all that `head` has, and with the sum for the weight given."""
        if self.bias is not None:
            self.bias[words] += grad_logits.sum(0)
        grad_logits = grad_logits.to(states.dtype)
        if self.hidden is not None:
            self.hidden[tokens] += grad_logits @ head.weight
        if sum_weight is None:
            return
        if sum_weight.dtype == states.dtype:
            sum_weight.addmm_(grad_logits.t(), states)
        else:
            sum_weight += grad_logits.t() @ states

    def add_by_slices(
        self,
        head: _Head,
        tokens: Tensor,
        states: Tensor,
        labels: Tensor,
        log_total: Tensor,
        grad_log_prob: Tensor,
        elements: int,
    ) -> None:
        """Adds all tokens that count, slice by slice of the words; each sum is rounded to its type once.

        Args:
            head: of all words.
            tokens: (n,) indices of those tokens.
            states: (N, H), as all the others of every token, (N,).
            labels, log_total, grad_log_prob: the latter the gradient of each log-prob.
            elements: logits that exist at a time.
        """
        size = max(1, min(VOCABULARY_SLICE, elements, len(head.weight)))
        for first in range(0, len(head.weight), size):
            words = slice(first, first + size)
            some = replace(head, weight=head.weight[words], bias=None if head.bias is None else head.bias[words])
            sum_weight = torch.zeros_like(some.weight, dtype=self._wide) if self.weight is not None else None
            for chunk in tokens.split(max(1, elements // size)):
                of_chunk = states[chunk]
                grad_logits = some.grad_logits(of_chunk, labels[chunk] - first, log_total[chunk], grad_log_prob[chunk])
                self._add(some, chunk, of_chunk, grad_logits, words, sum_weight)
            if sum_weight is not None and self.weight is not None:
                self.weight[words] = sum_weight

    def times(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        """All of them, times `factor`, in place."""
        return tuple(None if x is None else x.mul_(factor) for x in (self.hidden, self.weight, self.bias))


def _in_one_pass(dtype: torch.dtype, of_weight: bool) -> bool:
    """Whether sums in the products' own type are exact enough to stand where the gradients will be."""
    return dtype == torch.promote_types(dtype, torch.float32) or not of_weight


class _LinearLoss(torch.autograd.Function):
    """Forward: the loss as it is. Backward: the incoming gradient times gradients that are known already."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Tensor,
        gradients: _Gradients | None,
        unit: Tensor,
    ) -> Tensor:
        ctx.gradients, ctx.unit, ctx.shape = gradients, unit, hidden.shape
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
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
        gradients, ctx.gradients = ctx.gradients, None
        sums = gradients.times(grad_output * ctx.unit)
        hidden, weight, bias = (None if x is None else x.to(dtype) for x, dtype in zip(sums, ctx.dtypes, strict=True))
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
    """sum_b response_weights[b] sum_t lad_loss[b, t], from hidden states, without the (B, T, V) logits.

    Equal to `lad_loss` on log_softmax of softcap tanh((hidden @ lm_head_weight.T + bias) / softcap) / temperature.
    The logits of at most `chunk_size` tokens exist at a time, and only of tokens that count. For ratio="sequence" and
    "geometric" the weight of a response is known when all of its log-probs are, so the logits of a response of more
    than chunk_size tokens are computed twice, as all are for an LM head that needs a gradient where products are of a
    half type. Two transfers from the device: where the tokens are, and their numbers.

    Args:
        hidden: (B, T, H) hidden states in front of the LM head, of the positions that predict `labels`.
        lm_head_weight: (V, H). Used in the type of `hidden`, or that of autocast.
        labels: (B, T) token ids of the responses; anything where masked.
        old_log_prob: (B, T) log pi_old of the labels; None: the log-probs of this very policy (an on-policy step).
        advantages, response_mask, config: as for `lad_loss`.
        response_weights: (B,) factors without gradient; `aggregation_weights` makes those of the usual aggregations.
        token_weights: (B, T) factors without gradient, such as importance weights; anything where masked.
        bias: (V,) of the LM head.
        softcap: bound of the logits, as in Gemma 2.
        temperature: divisor of the logits, the one that the responses were sampled with.
        chunk_size: tokens whose logits, V numbers each, exist at a time; None: as many as CHUNK_BYTES hold.

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
    needed = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, lm_head_weight, bias)]
    wide = torch.promote_types(dtype, torch.float32)
    chunk_size = chunk_size or max(1, int(CHUNK_BYTES / wide.itemsize / max(1, len(lm_head_weight))))
    with torch.no_grad(), torch.autocast(device, enabled=False):
        head = _Head(lm_head_weight.to(dtype), bias, softcap, temperature)
        states, labels = hidden.to(dtype).flatten(0, 1), labels.flatten()
        gradients = _Gradients(states, lm_head_weight, bias, needed) if any(needed) else None
        in_one_pass = gradients is not None and gradients.in_one_pass
        mask = response_mask.bool()
        log_prob = torch.zeros(mask.shape, dtype=wide, device=hidden.device)
        # In units of the largest factor, so that the gradients of the logits are not too small for a half type.
        response_weights = response_weights.to(log_prob.dtype)
        unit = response_weights.abs().max() if response_weights.numel() else response_weights.new_ones(())
        unit = torch.where(unit > 0, unit, 1.0)
        factors = (response_weights / unit).unsqueeze(-1).expand(mask.shape)
        if token_weights is not None:
            factors = torch.where(mask, factors * token_weights, 0.0)
        old = log_prob if old_log_prob is None else old_log_prob
        if advantages.dim() == 1:
            advantages = advantages.unsqueeze(-1)
        # What must be known as a whole before a weight is: a token at token level, otherwise a response.
        columns = 1 if config.ratio == "token" else mask.shape[1]
        matrices = (log_prob, old, advantages.expand(mask.shape), mask, factors)
        rows = [matrix.reshape(-1, columns) for matrix in matrices]
        every_log_prob, tokens = log_prob.view(-1), mask.flatten().nonzero().squeeze(-1)
        every_log_total = torch.zeros_like(every_log_prob)
        for first, stop, of_rows in _spans(rows[3].sum(-1), chunk_size):
            chunks = tokens[of_rows].split(chunk_size)
            for chunk in chunks:
                softmax = head.softmax(states[chunk], labels[chunk])
                every_log_prob[chunk] = softmax.log_prob
                every_log_total[chunk] = softmax.log_total.squeeze(-1)
                if len(chunks) > 1 or not in_one_pass:
                    del softmax  # room for that of the next chunk
            if gradients is None or not in_one_pass:
                continue
            policy, sampler, target, counts, factor = (matrix[first:stop] for matrix in rows)
            grad_log_prob = (closed_form(policy, sampler, target, counts, config).weight * factor).flatten()
            for chunk in chunks:
                if len(chunks) > 1:
                    softmax = head.softmax(states[chunk], labels[chunk])
                gradients.add(head, chunk, states[chunk], softmax.grad_logits(grad_log_prob[chunk - first * columns]))
                del softmax
        matrix, token_weight, diagnostics = closed_form(log_prob, old, advantages, mask, config)
        loss = (matrix * factors).sum() * unit
        if gradients is not None and not in_one_pass:
            grad_log_prob = (token_weight * factors).flatten()
            elements = chunk_size * len(lm_head_weight)
            gradients.add_by_slices(head, tokens, states, labels, every_log_total, grad_log_prob, elements)
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
    """Raises ValueError unless the shapes fit."""
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
    """Consecutive rows that hold at most chunk_size tokens together, or a single longer row.

    Args:
        lengths: (rows,) tokens of each row.
        chunk_size: as said.

    Yields:
        First row, row behind the last, and where their tokens stand among all; no span without tokens.
    """
    ends = lengths.cumsum(0).tolist()
    first = done = 0
    while ends and done < ends[-1]:
        stop = max(bisect_right(ends, done + chunk_size), bisect_right(ends, done) + 1)
        yield first, stop, slice(done, ends[stop - 1])
        first, done = stop, ends[stop - 1]
