"""The loss summed over each response, with its gradient and the diagnostics, in one pass over blocks of responses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import finish, partial_diagnostics
from verl_lad.objective.loss import GivenGradient, RowBuffer, as_configured, check_shapes, evaluate, row_blocks


@dataclass(frozen=True)
class LADResponses:
    """What every way of aggregating the loss starts from, and the diagnostics.

    Attributes:
        loss_sum: (B,) sum of `lad_loss` over the tokens of each response; carries the gradient.
        length: (B,) number of tokens of each response, as int64.
        diagnostics: (len(DIAGNOSTICS),), on the device, without gradient.
    """

    loss_sum: Tensor
    length: Tensor
    diagnostics: Tensor


def _respond(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    token_weights: Tensor | None,
    config: LADConfig,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Of a block of responses: (B,) sums, (B,) lengths, (B, T) gradient, and the parts of the diagnostics."""
    terms = evaluate(log_prob, old_log_prob, advantages, response_mask, config)
    loss, token_weight = terms.loss, terms.token_weight
    if token_weights is not None:
        factor = torch.where(terms.response_mask, token_weights.to(loss.dtype), 0.0)
        loss, token_weight = loss * factor, token_weight * factor
    return loss.sum(-1), terms.length, token_weight, partial_diagnostics(terms, config)


def lad_responses(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    config: LADConfig | None = None,
    token_weights: Tensor | None = None,
) -> LADResponses:
    """The sums of `lad_loss` over each response: same numbers, and no (B, T) matrix but that of the gradient.

    Args:
        log_prob, old_log_prob, advantages, response_mask, config: as for `lad_loss`.
        token_weights: (B, T) factors of the loss matrix, without gradient, such as importance weights; anything where
            masked. None: all 1.

    Returns:
        Sums, lengths and diagnostics; the latter without the factors.

    Raises:
        ValueError: on shapes that do not fit.
    """
    config = config or LADConfig()
    check_shapes(log_prob, old_log_prob, advantages, response_mask)
    if token_weights is not None and token_weights.shape != log_prob.shape:
        raise ValueError(
            f"token_weights must have the shape of log_prob, {tuple(log_prob.shape)}, got {tuple(token_weights.shape)}"
        )
    weight = RowBuffer(log_prob)
    sums, lengths, parts = [], [], []
    respond = as_configured(_respond, config)
    factors = response_mask if token_weights is None else token_weights
    with torch.no_grad():
        for *block, factor in row_blocks(
            log_prob, old_log_prob, advantages, response_mask, factors, whole=config.compile
        ):
            block_sums, block_lengths, block_weight, block_parts = respond(
                *block, None if token_weights is None else factor, config
            )
            weight.append(block_weight)
            sums.append(block_sums)
            lengths.append(block_lengths)
            parts.append(block_parts)
        loss_sum, length, diagnostics = torch.cat(sums), torch.cat(lengths).long(), finish(parts)
    return LADResponses(GivenGradient.apply(log_prob, loss_sum, weight.matrix), length, diagnostics)
