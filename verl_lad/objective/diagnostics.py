"""What to watch while LAD trains: the same names under every framework."""

from collections.abc import Sequence

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.loss import LADTerms

DIAGNOSTICS = {
    "ppo_kl": "mean over tokens of log pi_old - log pi_theta: how far the policy has moved from the sampling policy",
    "divergence": "mean centred value of the loss at the ratio's level; falls while the policy approaches the target",
    "log_ratio_abs_max": "largest |l| at the ratio's level, before clamping",
    "weight_pos": "mean g = dL/dl where A > 0; negative: these responses gain likelihood; 0 where there are none",
    "weight_neg": "mean g = dL/dl where A < 0; positive: these responses lose likelihood; 0 where there are none",
    "retracting_frac": "share of the A > 0 with g > 0: past their target, likelihood is taken back",
    "target_mass": "mean over responses of exp(A / eta), with A / eta limited to max_log_weight: the Z of the target",
    "saturated_frac": "share where max_log_ratio or max_log_weight took effect",
}
"""Name -> meaning, in the order of `lad_diagnostics`' result."""
LARGEST = list(DIAGNOSTICS).index("log_ratio_abs_max")
"""Its place: the one that is no mean."""


@torch.no_grad()
def lad_diagnostics(terms: LADTerms, config: LADConfig) -> Tensor:
    """All diagnostics of one micro-batch, on the device: one transfer brings them to the host.

    Args:
        terms: from `lad_terms`.
        config: the settings that `terms` was made with.

    Returns:
        (len(DIAGNOSTICS),) in that order, in the type of the loss. Finite for an empty mask: 0 where there is nothing
        to average.
    """
    return finish([partial_diagnostics(terms, config)])


def partial_diagnostics(terms: LADTerms, config: LADConfig) -> Tensor:
    """(2, len(DIAGNOSTICS)): sums, and what `finish` divides them by, or 0; but the largest |l| is no sum.

    Signs and products instead of comparisons and `where`, which take five times as long on a CPU: every number in
    `terms` is 0 where masked.
    """
    weight, sign = terms.weight, terms.target.sign()
    good = sign.clamp(min=0)
    bad = good - sign
    length = terms.length
    goods, tokens, responses = total(good), length.sum(), length.clamp(max=1).sum()
    at_token_level = terms.level_log_ratio is terms.log_ratio
    size = tokens if at_token_level else responses
    mass = terms.target.clamp(max=config.max_log_weight).exp_().mul_(terms.counts).sum(-1)
    if at_token_level:
        mass /= length.clamp(min=1)
    zero = tokens.new_zeros(())
    sums = [
        -total(terms.log_ratio),
        terms.loss_sum.sum() if at_token_level else terms.value.sum(),
        terms.largest,
        dot(good, weight),
        dot(bad, weight),
        dot(good, weight.sign().clamp_(min=0)),
        mass.sum(),
        zero if terms.excess is None else total((terms.excess != 0).to(weight.dtype)),
    ]
    return torch.stack([*sums, tokens, size, zero, goods, total(bad), goods, responses, size]).view(2, -1)


def total(x: Tensor) -> Tensor:
    """The sum of a matrix; under torch.compile by rows first, so that one loop over rows makes all sums at once."""
    return x.sum(-1).sum() if torch.compiler.is_compiling() else x.sum()


def dot(x: Tensor, y: Tensor) -> Tensor:
    """The sum of the products of two matrices."""
    return total(x * y) if torch.compiler.is_compiling() else torch.dot(x.flatten(), y.flatten())


def finish(parts: Sequence[Tensor]) -> Tensor:
    """(len(DIAGNOSTICS),) diagnostics from the `partial_diagnostics` of each block of responses."""
    together = parts[0]
    if len(parts) > 1:
        blocks = torch.stack(tuple(parts))
        together = blocks.sum(0)
        together[0, LARGEST] = blocks[:, 0, LARGEST].amax()
    sums, counts = together
    return sums / counts.clamp(min=1)
