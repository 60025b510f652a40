"""The fast loss: closed-form gradient, one autograd function, one saved tensor."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.divergences import get_divergence

MAX_BEYOND = 1e6
"""How far beyond max_log_ratio a log-ratio may count: finite, so that a log-prob of -inf gives a finite g."""


@dataclass(frozen=True)
class LADTerms:
    """The loss and what it was made of. All but `loss` carry no gradient.

    Attributes:
        loss: (B, T) loss matrix, 0 where masked; aggregate it under the loss_agg_mode that belongs to the ratio.
        log_ratio: (B, T) l_t = log pi_theta - log pi_old per token, not clamped, 0 where masked.
        level_log_ratio: l at the configured level before clamping: (B, T) for token, (B, 1) otherwise.
        target: u = A / eta at the same level, not saturated; 0 where masked.
        weight: g = dL/dl at the same level; 0 where masked.
        value: centred value at the same level; 0 where masked.
        mask: bool, at the same level: tokens that count, or responses with at least one token.
        response_mask: (B, T) bool.
        saturated: bool, at the same level: u was limited by max_log_weight, or l by max_log_ratio.
    """

    loss: Tensor
    log_ratio: Tensor
    level_log_ratio: Tensor
    target: Tensor
    weight: Tensor
    value: Tensor
    mask: Tensor
    response_mask: Tensor
    saturated: Tensor


class _GivenGradient(torch.autograd.Function):
    """Forward: `loss` as it is. Backward: `log_prob` receives the incoming gradient times `weight`, elementwise."""

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, loss: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.log_prob_dtype = log_prob.dtype
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable misses a constant grad_output
            raise RuntimeError(
                "lad_loss has a closed-form first derivative only: backward with create_graph=True is not supported; "
                "use lad_loss_reference for second derivatives"
            )
        (weight,) = ctx.saved_tensors
        return (grad_output * weight).to(ctx.log_prob_dtype), None, None


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


@torch.no_grad()
def level_inputs(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masked log-ratios and targets at the level of config.ratio.

    Args:
        log_prob, old_log_prob: (B, T).
        advantages: (B, T), (B, 1) or (B,). At sequence level per-token advantages are averaged over the response.
        response_mask: (B, T) bool.
        config: eta and ratio are used.

    Returns:
        l_t (B, T), l, u and their mask, the last three (B, T) for ratio="token" and (B, 1) otherwise; in float32, or
        float64 if log_prob or old_log_prob has it. Exactly 0 where masked, whatever stood there.
    """
    dtype = torch.promote_types(torch.promote_types(log_prob.dtype, old_log_prob.dtype), torch.float32)
    zero = torch.zeros((), dtype=dtype, device=log_prob.device)
    token_log_ratio = torch.where(response_mask, log_prob.to(dtype) - old_log_prob.to(dtype), zero)
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(-1)
    target = torch.where(response_mask, advantages.to(dtype) / config.eta, zero)
    if config.ratio == "token":
        return token_log_ratio, token_log_ratio, target, response_mask
    length = response_mask.sum(-1, keepdim=True)
    log_ratio = token_log_ratio.sum(-1, keepdim=True)
    if config.ratio == "geometric":
        log_ratio = log_ratio / length.clamp(min=1)
    return token_log_ratio, log_ratio, target.sum(-1, keepdim=True) / length.clamp(min=1), length > 0


def lad_terms(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig | None = None
) -> LADTerms:
    """As `lad_loss`, which see, and returns the parts as well, for diagnostics without a second evaluation."""
    config = config or LADConfig()
    check_shapes(log_prob, old_log_prob, advantages, response_mask)
    response_mask = response_mask.bool()
    divergence = get_divergence(config.divergence, config.alpha)
    with torch.no_grad():
        token_log_ratio, log_ratio, target, mask = level_inputs(
            log_prob, old_log_prob, advantages, response_mask, config
        )
        clamped = log_ratio.clamp(-config.max_log_ratio, config.max_log_ratio)
        limited = divergence.saturate(target, config.max_log_weight)
        # What the clamp takes off l goes off u as well: rho is limited, while d = l - u, which says on which side of
        # the target we are, stays. The bound keeps l = -inf finite.
        beyond = (log_ratio - clamped).clamp(-MAX_BEYOND, MAX_BEYOND)
        shifted = divergence.saturate(limited - beyond, config.max_log_weight)
        zero = torch.zeros((), dtype=clamped.dtype, device=clamped.device)
        value = torch.where(mask, divergence.value(clamped, shifted), zero)
        weight = torch.where(mask, divergence.weight(clamped, shifted), zero)
        per_token = value
        if config.ratio == "sequence":
            per_token = value / response_mask.sum(-1, keepdim=True).clamp(min=1)
        if config.ratio != "token":
            per_token = torch.where(response_mask, per_token, zero)
        token_weight = weight if config.ratio == "token" else torch.where(response_mask, weight, zero)
    return LADTerms(
        loss=_GivenGradient.apply(log_prob, per_token, token_weight),
        log_ratio=token_log_ratio,
        level_log_ratio=log_ratio,
        target=target,
        weight=weight,
        value=value,
        mask=mask,
        response_mask=response_mask,
        saturated=(clamped != log_ratio) | (limited != target),
    )


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
    return lad_terms(log_prob, old_log_prob, advantages, response_mask, config).loss
