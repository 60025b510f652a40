"""LAD's loss matrix with its closed-form gradient, and the diagnostics of one micro-batch.

The gradient of the objective in each log-prob is known in closed form (docs/theory.md), so the loss is one autograd
function that keeps one tensor. Notation as in `divergences`: l log-ratio, u = A / eta, rho = exp(l), g = dL/dl.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import Diagnostics
from verl_lad.objective.divergences import get_divergence

MAX_BEYOND = 1e6
"""Bound on the part of l beyond max_log_ratio. It keeps the gradient finite when a log-prob is -inf."""


class Level(NamedTuple):
    """What the divergence is evaluated on. (B, L) is (B, T) for ratio="token" and (B, 1) otherwise.

    Every entry is exactly 0 where masked, whatever stood there.

    Attributes:
        token_log_ratio: (B, T) log pi_theta - log pi_old of each token, not clamped.
        token_mask: (B, T) 1 for tokens that count, otherwise 0.
        length: (B, 1) number of tokens of each response.
        log_ratio: (B, L) l, not clamped.
        target: (B, L) u = A / eta, not saturated.
        counts: (B, L) 1 for tokens that count, or for responses with at least one token, otherwise 0.
    """

    token_log_ratio: Tensor
    token_mask: Tensor
    length: Tensor
    log_ratio: Tensor
    target: Tensor
    counts: Tensor


def to_level(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> Level:
    """Return l and u at the level of config.ratio, in float32, or in float64 if either log-prob has it.

    Args:
        log_prob, old_log_prob: (B, T).
        advantages: (B, T), (B, 1) or (B,).
        response_mask: (B, T) bool.
        config: eta and ratio are used.
    """
    dtype = torch.float64 if torch.float64 in (log_prob.dtype, old_log_prob.dtype) else torch.float32
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(-1)
    log_ratio = torch.where(response_mask, log_prob.to(dtype) - old_log_prob.to(dtype), 0.0)
    target = torch.where(response_mask, advantages.to(dtype), 0.0).div_(config.eta)
    token_mask = response_mask.to(dtype)
    length = token_mask.sum(-1, keepdim=True)
    if config.ratio == "token":
        return Level(log_ratio, token_mask, length, log_ratio, target, token_mask)
    tokens = length.clamp(min=1)
    summed = log_ratio.sum(-1, keepdim=True)
    return Level(
        token_log_ratio=log_ratio,
        token_mask=token_mask,
        length=length,
        log_ratio=summed if config.ratio == "sequence" else summed / tokens,
        target=target.sum(-1, keepdim=True) / tokens,
        counts=length.clamp(max=1),
    )


def measure(level: Level, weight: Tensor, value: Tensor, limited: Tensor, config: LADConfig) -> Diagnostics:
    """Return the diagnostics of one micro-batch, without waiting for the device.

    Args:
        level: l and u.
        weight: g at the same level, 0 where masked.
        value: centred value at the same level, 0 where masked.
        limited: bool at the same level, where a limit took effect.
        config: max_log_weight is used.
    """
    good, bad = (level.target > 0).to(value.dtype), (level.target < 0).to(value.dtype)
    counted, goods = level.counts.sum(), good.sum()
    mass = (level.target.clamp(max=config.max_log_weight).exp_() * level.counts).sum(-1)
    mass = mass / level.counts.sum(-1).clamp(min=1)
    largest = level.log_ratio.abs().amax() if level.log_ratio.numel() else counted
    return {
        "ppo_kl": (-level.token_log_ratio.sum(), level.length.sum()),
        "divergence": (value.sum(), counted),
        "log_ratio_abs_max": (largest, torch.ones_like(largest)),
        "weight_pos": ((good * weight).sum(), goods),
        "weight_neg": ((bad * weight).sum(), bad.sum()),
        "retracting_frac": ((good * (weight > 0)).sum(), goods),
        "target_mass": (mass.sum(), level.length.clamp(max=1).sum()),
        "saturated_frac": (limited.sum(dtype=value.dtype), counted),
    }


class ClosedForm(NamedTuple):
    """The loss matrix without gradient, its derivative, and the diagnostics.

    Attributes:
        loss: (B, T) centred values, 0 where masked.
        weight: (B, T) d loss / d log_prob, elementwise, 0 where masked.
        diagnostics: name -> (sum, count).
    """

    loss: Tensor
    weight: Tensor
    diagnostics: Diagnostics


class GivenGradient(torch.autograd.Function):
    """Return a loss matrix whose derivative in log_prob is given: backward multiplies it by the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, loss: Tensor, weight: Tensor) -> Tensor:
        """Keep `weight`, (B, T) d loss / d log_prob, and return `loss`, (B, T)."""
        ctx.save_for_backward(weight)
        ctx.log_prob_dtype = log_prob.dtype
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of log_prob in its own type, rounded once."""
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable misses a constant grad_output
            raise RuntimeError(
                "lad_loss has a closed-form first derivative only: backward with create_graph=True is not supported; "
                "use lad_loss_reference for second derivatives"
            )
        (weight,) = ctx.saved_tensors
        return (grad_output * weight).to(ctx.log_prob_dtype), None, None


def check_shapes(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor) -> None:
    """Raise ValueError unless log_prob, old_log_prob and response_mask are (B, T) and advantages fits them."""
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


def closed_form(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig
) -> ClosedForm:
    """Evaluate loss matrix, gradient and diagnostics; call it under no_grad. See `lad_loss` for the arguments."""
    divergence = get_divergence(config.divergence, config.alpha)
    level = to_level(log_prob, old_log_prob, advantages, response_mask.bool(), config)

    l = level.log_ratio.clamp(-config.max_log_ratio, config.max_log_ratio)
    u = divergence.saturate(level.target, config.max_log_weight)
    # What the clamp takes off l goes off u as well: rho is limited, while d = l - u, which says on which side of the
    # target the policy is, stays.
    beyond = (level.log_ratio - l).clamp_(-MAX_BEYOND, MAX_BEYOND)
    limited = (beyond != 0) | (u != level.target)

    weight, value = divergence.weight_and_value(l, divergence.saturate(u - beyond, config.max_log_weight))
    weight, value = weight * level.counts, value * level.counts
    diagnostics = measure(level, weight, value, limited, config)

    if config.ratio == "token":
        return ClosedForm(value, weight, diagnostics)
    if config.ratio == "sequence":  # the response's value, spread evenly over its tokens
        value = value / level.length.clamp(min=1)
    return ClosedForm(value * level.token_mask, weight * level.token_mask, diagnostics)


def lad_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig | None = None
) -> tuple[Tensor, Diagnostics]:
    """Compute LAD's loss matrix, E_{y ~ pi_old}[exp(u) f(exp(l - u))] with u = A / eta (arXiv 2602.20132).

    The values are centred: a term without theta is left out of each, so they never overflow and may be negative.
    docs/theory.md derives both; `lad_loss_reference` is the formula itself.

    Args:
        log_prob: (B, T) log pi_theta of the response tokens, any floating type. The only input that gets a gradient.
        old_log_prob: (B, T) log pi_old of the same tokens, under the policy that sampled them.
        advantages: (B, T), (B, 1) or (B,), in units of the reward. For ratio="sequence" and "geometric", per-token
            advantages are averaged over the response.
        response_mask: (B, T) bool or 0/1; log_prob, old_log_prob and advantages may hold anything where it is 0.
        config: the settings; LADConfig() if None.

    Returns:
        The loss matrix, (B, T), 0 where masked; float32 for half types, otherwise the inputs' type. For
        ratio="sequence" the response's value is spread evenly over its tokens (its exact objective is
        seq-mean-token-sum); for "geometric" each token carries it whole (seq-mean-token-mean). It supports one
        backward pass, not a second order.
        The diagnostics, name -> (sum, count), on the device; `diagnostic_means` fetches them in one transfer.

    Raises:
        ValueError: on shapes that do not fit.
    """
    check_shapes(log_prob, old_log_prob, advantages, response_mask)
    with torch.no_grad():
        loss, weight, diagnostics = closed_form(
            log_prob, old_log_prob, advantages, response_mask, config or LADConfig()
        )
    return GivenGradient.apply(log_prob, loss, weight), diagnostics
