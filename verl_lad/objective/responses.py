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
        log_prob: (B, T), as given.
        sums: (B,) sum of `lad_loss` over the tokens of each response, without gradient.
        weight: (B, T) d sums / d log_prob.
        length: (B,) number of tokens of each response, as int64.
        diagnostics: (len(DIAGNOSTICS),), on the device, without gradient.
    """

    log_prob: Tensor
    sums: Tensor
    weight: Tensor
    length: Tensor
    diagnostics: Tensor

    @property
    def loss_sum(self) -> Tensor:
        """(B,) `sums`; carries the gradient."""
        return GivenGradient.apply(self.log_prob, self.sums, self.weight)

    @property
    def loss_mean(self) -> Tensor:
        """(B, 1) mean of `lad_loss` over the tokens of each response, 0 where there are none; carries the gradient."""
        divisor = self.length.unsqueeze(-1).clamp(min=1)
        return GivenGradient.apply(self.log_prob, self.sums.unsqueeze(-1) / divisor, self.weight, divisor)


def _respond(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    token_weights: Tensor | None,
    config: LADConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a block of responses: (B,) sums, (B,) lengths, (B, T) gradient, and the parts of the diagnostics."""
    terms = evaluate(log_prob, old_log_prob, advantages, response_mask, config)
    loss_sum, token_weight = terms.loss_sum, terms.token_weight
    if token_weights is not None:
        factor = torch.where(terms.response_mask, token_weights.to(token_weight.dtype), 0.0)
        loss_sum, token_weight = (terms.loss * factor).sum(-1), token_weight * factor
    return loss_sum, terms.length, token_weight, partial_diagnostics(terms, config)


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
    respond = as_configured(_respond, config)
    factors = response_mask if token_weights is None else token_weights
    weight = RowBuffer(log_prob)
    sums, lengths, parts = [], [], []
    with torch.no_grad():
        for *block, factor in row_blocks(
            log_prob.detach(), old_log_prob, advantages, response_mask, factors, whole=config.compile
        ):
            block_sums, block_lengths, block_weight, block_parts = respond(
                *block, None if token_weights is None else factor, config
            )
            weight.append(block_weight)
            sums.append(block_sums)
            lengths.append(block_lengths)
            parts.append(block_parts)
        return LADResponses(log_prob, torch.cat(sums), weight.matrix, torch.cat(lengths).long(), finish(parts))
