"""What to watch while LAD trains: the same names under every framework."""

import torch
from torch import Tensor

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
"""Name -> meaning."""

Diagnostics = dict[str, tuple[Tensor, Tensor]]
"""Name -> (sum, count), scalars on the device in the type of the loss; the mean is sum / count, or 0 without any."""


def diagnostic_means(diagnostics: Diagnostics) -> dict[str, float]:
    """Return name -> mean as floats, fetched from the device in one transfer."""
    sums, counts = torch.stack([scalar for pair in diagnostics.values() for scalar in pair]).view(-1, 2).unbind(-1)
    return dict(zip(diagnostics, (sums / counts.clamp(min=1)).tolist(), strict=True))
