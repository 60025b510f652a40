"""The fast loss: closed-form gradient, one autograd function, one saved tensor, blocks that stay in a cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.divergences import get_divergence

Function = Callable[..., Any]

MAX_BEYOND = 1e6
"""How far beyond max_log_ratio a log-ratio may count: finite, so that a log-prob of -inf gives a finite g."""
CPU_BLOCK = 2**15
"""Tokens evaluated at a time on a CPU: the dozen intermediate results of a block, 1.5 MB, stay in a core's cache."""
ACCELERATOR_BLOCK = 2**22
"""The same elsewhere: enough to fill any device, so it only bounds the memory of the intermediate results."""


@dataclass(frozen=True)
class LADTerms:
    """The loss and what it was made of. All but `loss` carry no gradient.

    Attributes:
        loss: (B, T) loss matrix, 0 where masked; aggregate it under the loss_agg_mode that belongs to the ratio.
        token_weight: (B, T) d loss / d log_prob, elementwise; 0 where masked.
        loss_sum: (B,) loss summed over the tokens of each response.
        log_ratio: (B, T) l_t = log pi_theta - log pi_old per token, not clamped, 0 where masked.
        level_log_ratio: l at the configured level before clamping: (B, T) for token, (B, 1) otherwise.
        target: u = A / eta at the same level, not saturated; 0 where masked.
        weight: g = dL/dl at the same level; 0 where masked.
        value: centred value at the same level; 0 where masked.
        counts: 1 for tokens that count, or responses with at least one token, at the same level; otherwise 0.
        response_mask: (B, T) bool.
        length: (B,) number of tokens of each response, in the type of the loss.
        largest: scalar, the largest |l| at the same level, before clamping; 0 where there is none.
        excess: at the same level: not 0 where max_log_ratio limited l or max_log_weight limited u. None: nowhere.
    """

    loss: Tensor
    token_weight: Tensor
    loss_sum: Tensor
    log_ratio: Tensor
    level_log_ratio: Tensor
    target: Tensor
    weight: Tensor
    value: Tensor
    counts: Tensor
    response_mask: Tensor
    length: Tensor
    largest: Tensor
    excess: Tensor | None

    @property
    def mask(self) -> Tensor:
        """Bool, at the ratio's level: tokens that count, or responses with at least one token."""
        return self.counts != 0

    @property
    def saturated(self) -> Tensor:
        """Bool, at the ratio's level: u was limited by max_log_weight, or l by max_log_ratio."""
        return torch.zeros_like(self.mask) if self.excess is None else self.excess != 0


class GivenGradient(torch.autograd.Function):
    """Forward: `loss` as it is, (B, T), or one number a response. Backward: the incoming gradient times `weight`.

    One number a response, (B,) or (B, 1), has the gradient `weight` / `divisor`.
    """

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, loss: Tensor, weight: Tensor, divisor: Tensor | None = None) -> Tensor:
        """Keeps `weight`, (B, T) d loss / d log_prob, and `divisor`, of the shape of `loss`, alone."""
        ctx.save_for_backward(weight, divisor)
        ctx.log_prob_dtype = log_prob.dtype
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of log_prob in its own type."""
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable misses a constant grad_output
            raise RuntimeError(
                "lad_loss has a closed-form first derivative only: backward with create_graph=True is not supported; "
                "use lad_loss_reference for second derivatives"
            )
        weight, divisor = ctx.saved_tensors
        if divisor is not None:
            grad_output = grad_output / divisor
        if grad_output.dim() == 1:
            grad_output = grad_output.unsqueeze(-1)
        if weight.dtype == ctx.log_prob_dtype:
            return grad_output * weight, None, None, None
        grad = torch.empty_like(weight, dtype=ctx.log_prob_dtype)
        for g, w, out in row_blocks(weight, grad_output.expand_as(weight), grad):  # no second matrix in the wider type
            out.copy_(g * w)
        return grad, None, None, None


def check_shapes(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor) -> None:
    """Raises ValueError unless log_prob, old_log_prob and response_mask are (B, T) and advantages fits them."""
    shape = log_prob.shape
    if log_prob.dim() != 2 or old_log_prob.shape != shape or response_mask.shape != shape:
        raise ValueError(
            "log_prob, old_log_prob and response_mask must share one shape (B, T), got "
            f"{tuple(log_prob.shape)}, {tuple(old_log_prob.shape)} and {tuple(response_mask.shape)}"
        )
    if advantages.shape not in (shape, (shape[0], 1), (shape[0],)):
        raise ValueError(
            f"advantages must be (B, T), (B, 1) or (B,) for (B, T) = {tuple(shape)}, got {tuple(advantages.shape)}"
        )
    if not log_prob.is_floating_point():
        raise ValueError(f"log_prob must be floating point, got {log_prob.dtype}")


@cache
def _compiled(function: Function) -> Function:
    # Sizes stay symbols: verl's micro-batches differ in both. Not fullgraph: whoever exceeds torch's limit of
    # recompilations goes on eagerly, with torch's warning.
    return torch.compile(function, dynamic=True)


def as_configured(function: Function, config: LADConfig) -> Function:
    """`function`, under torch.compile if `config` says so and nobody compiles it already."""
    return _compiled(function) if config.compile and not torch.compiler.is_compiling() else function


def row_blocks(*tensors: Tensor, whole: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each tensor, block by block, at least one; the first is a (B, T) matrix.

    There is one block if the caller wants the whole, and under torch.compile: it fuses the operations instead.
    """
    rows, length = tensors[0].shape
    elements = CPU_BLOCK if tensors[0].device.type == "cpu" else ACCELERATOR_BLOCK
    step = max(1, elements // max(1, length))
    if whole or rows <= step or torch.compiler.is_compiling():
        return iter([tensors])
    return zip(*(tensor.split(step) for tensor in tensors), strict=True)


class RowBuffer:
    """A (B, T) matrix that is written block by block; a single block is the matrix itself, and costs no copy."""

    matrix: Tensor

    def __init__(self, like: Tensor):
        self._shape = like.shape
        self._start = 0

    def append(self, block: Tensor) -> None:
        """Sets the next rows."""
        if block.shape == self._shape:
            self.matrix = block
            return
        if self._start == 0:
            self.matrix = block.new_empty(self._shape)
        end = self._start + block.shape[0]
        self.matrix[self._start : end] = block
        self._start = end


def loss_dtype(log_prob: Tensor, old_log_prob: Tensor) -> torch.dtype:
    """What the loss is computed in: float32, or float64 if either has it."""
    return torch.float64 if torch.float64 in (log_prob.dtype, old_log_prob.dtype) else torch.float32


def level_inputs(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Masked log-ratios and targets at the level of config.ratio.

    Args:
        log_prob, old_log_prob: (B, T).
        advantages: (B, T), (B, 1) or (B,). At sequence level per-token advantages are averaged over the response.
        response_mask: (B, T) bool.
        config: eta and ratio are used.

    Returns:
        l_t (B, T), the lengths (B,), and l, u and what counts, 1 or 0, the last three (B, T) for ratio="token" and
        (B, 1) otherwise; all in float32, or float64 if log_prob or old_log_prob has it. Exactly 0 where masked,
        whatever stood there.
    """
    dtype = loss_dtype(log_prob, old_log_prob)
    zero = torch.zeros((), dtype=dtype, device=log_prob.device)
    token_log_ratio = torch.where(response_mask, log_prob.to(dtype) - old_log_prob.to(dtype), zero)
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(-1)
    target = torch.where(response_mask, advantages.to(dtype), zero).div_(config.eta)
    counts = response_mask.to(dtype)
    length = counts.sum(-1)
    if config.ratio == "token":
        return token_log_ratio, length, token_log_ratio, target, counts
    tokens = length.unsqueeze(-1).clamp(min=1)
    log_ratio = token_log_ratio.sum(-1, keepdim=True)
    if config.ratio == "geometric":
        log_ratio = log_ratio / tokens
    return token_log_ratio, length, log_ratio, target.sum(-1, keepdim=True) / tokens, length.unsqueeze(-1).clamp(max=1)


def _largest(x: Tensor) -> Tensor:
    """The largest |x| of a matrix, a scalar; 0 of nothing."""
    if not x.numel():
        return x.new_zeros(())
    return x.abs().amax(-1).amax() if torch.compiler.is_compiling() else x.abs().amax()


def _known_at_most(largest: Tensor, limit: float) -> bool:
    """Whether the scalar is at most `limit`; False where one would have to wait for it: beyond the CPU."""
    return largest.device.type == "cpu" and not torch.compiler.is_compiling() and largest.item() <= limit


def evaluate(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> LADTerms:
    """As `lad_terms`, of arguments that fit, and with a loss without gradient; to be called under no_grad."""
    response_mask = response_mask.bool()
    divergence = get_divergence(config.divergence, config.alpha)
    token_log_ratio, length, log_ratio, target, counts = level_inputs(
        log_prob, old_log_prob, advantages, response_mask, config
    )
    largest = _largest(log_ratio)
    clamped, shifted, excess = log_ratio, target, None
    if not (
        _known_at_most(largest, config.max_log_ratio)
        and (not divergence.saturates or _known_at_most(_largest(target), config.max_log_weight))
    ):
        clamped = log_ratio.clamp(-config.max_log_ratio, config.max_log_ratio)
        limited = divergence.saturate(target, config.max_log_weight)
        # What the clamp takes off l goes off u as well: rho is limited, while d = l - u, which says on which side of
        # the target we are, stays. The bound keeps l = -inf finite.
        beyond = (log_ratio - clamped).clamp_(-MAX_BEYOND, MAX_BEYOND)
        shifted = divergence.saturate(limited - beyond, config.max_log_weight)
        excess = beyond if limited is target else beyond.abs() + (target - limited).abs()
    weight, value = divergence.weight_and_value(clamped, shifted)
    value = value * counts  # the weight is 0 where l = u, so where masked
    per_token, token_weight, loss_sum = value, weight, value.sum(-1)
    if config.ratio == "sequence":
        per_token = value / length.clamp(min=1).unsqueeze(-1)
    if config.ratio == "geometric":
        loss_sum = loss_sum * length
    if config.ratio != "token":
        per_token, token_weight = per_token * response_mask, weight * response_mask
    return LADTerms(
        loss=per_token,
        token_weight=token_weight,
        loss_sum=loss_sum,
        log_ratio=token_log_ratio,
        level_log_ratio=log_ratio,
        target=target,
        weight=weight,
        value=value,
        counts=counts,
        response_mask=response_mask,
        length=length,
        largest=largest,
        excess=excess,
    )


def lad_terms(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig | None = None
) -> LADTerms:
    """As `lad_loss`, which see, and returns all that it is made of. `lad_responses` needs less time and memory."""
    config = config or LADConfig()
    check_shapes(log_prob, old_log_prob, advantages, response_mask)
    with torch.no_grad():
        terms = as_configured(evaluate, config)(log_prob, old_log_prob, advantages, response_mask, config)
    return replace(terms, loss=GivenGradient.apply(log_prob, terms.loss, terms.token_weight))


def _loss_and_weight(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> tuple[Tensor, Tensor]:
    terms = evaluate(log_prob, old_log_prob, advantages, response_mask, config)
    return terms.loss, terms.token_weight


def lad_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig | None = None
) -> Tensor:
    """LAD's loss matrix, E_{y ~ pi_old}[exp(u) f(exp(l - u))] with u = A / eta (arXiv 2602.20132; docs/theory.md).

    The values are centred: a term without theta is left out of each, so they never overflow and may be negative.

    Args:
        log_prob: (B, T) log pi_theta of the response tokens, any floating type. The only input that gets a gradient.
        old_log_prob: (B, T) log pi_old of the same tokens, of the policy that sampled them.
        advantages: (B, T), (B, 1) or (B,), in units of the reward.
        response_mask: (B, T) bool or 0/1; log_prob, old_log_prob and advantages may hold anything where it is 0.
        config: the settings; LADConfig() if None.

    Returns:
        (B, T) loss matrix, 0 where masked; float32 for half types, otherwise of the inputs' type. For ratio="sequence"
        the response's value is spread evenly over its tokens (its exact objective is seq-mean-token-sum), for
        "geometric" each token carries it whole (seq-mean-token-mean). Supports one backward pass, not a second order.

    Raises:
        ValueError: on shapes that do not fit.
    """
    config = config or LADConfig()
    check_shapes(log_prob, old_log_prob, advantages, response_mask)
    loss, weight = RowBuffer(log_prob), RowBuffer(log_prob)
    block_of = as_configured(_loss_and_weight, config)
    with torch.no_grad():
        for block in row_blocks(log_prob, old_log_prob, advantages, response_mask, whole=config.compile):
            block_loss, block_weight = block_of(*block, config)
            loss.append(block_loss)
            weight.append(block_weight)
    return GivenGradient.apply(log_prob, loss.matrix, weight.matrix)
