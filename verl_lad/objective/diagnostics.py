"""What to watch while LAD trains: the same names under every framework."""

from collections.abc import Sequence
from functools import reduce

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


def partial_diagnostics(terms: LADTerms, config: LADConfig) -> tuple[Tensor, Tensor]:
    """What `finish` makes the diagnostics from: (14,) sums and then counts, and the largest |l|.

    Signs and products instead of comparisons and `where`, which take five times as long on a CPU: every number in
    `terms` is 0 where masked.
    """
    weight, sign = terms.weight, terms.target.sign()
    good = sign.clamp(min=0)
    bad = good - sign
    goods, tokens, responses = good.sum(), terms.length.sum(), terms.length.clamp(max=1).sum()
    at_token_level = terms.level_log_ratio is terms.log_ratio
    size = tokens if at_token_level else responses
    mass = (terms.target.clamp(max=config.max_log_weight).exp_() * terms.counts).sum(-1)
    sums = [
        -terms.log_ratio.sum(),
        terms.value.sum(),
        (good * weight).sum(),
        (bad * weight).sum(),
        (good * weight.sign().clamp_(min=0)).sum(),
        (mass / terms.length.clamp(min=1)).sum() if at_token_level else mass.sum(),
        terms.excess.count_nonzero().to(weight.dtype),
    ]
    counts = [tokens, size, goods, bad.sum(), goods, responses, size]
    magnitude = terms.level_log_ratio.abs()
    return torch.stack(sums + counts), magnitude.amax() if magnitude.numel() else goods


def finish(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(len(DIAGNOSTICS),) diagnostics from the `partial_diagnostics` of each block of responses."""
    sums, largest = zip(*parts, strict=True)
    total, count = reduce(torch.add, sums).chunk(2)
    means = total / count.clamp_(min=1)
    return torch.cat([means[:2], reduce(torch.maximum, largest).view(1), means[2:]])
