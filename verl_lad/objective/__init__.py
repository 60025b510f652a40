"""The mathematics of LAD. Knows torch and nothing else: no trainer, no config library.

loss.py          the loss matrix, its closed-form gradient, and the diagnostics
divergences.py   the f-divergences in log space, and how to register another
advantages.py    group-relative advantages and the constant that each group's target gets
config.py        the settings
diagnostics.py   what the diagnostics are called and mean
linear.py        the same loss straight from hidden states and LM head
reference.py     the formula, by autograd: what proves the fast loss
"""

from verl_lad.objective.advantages import group_advantages
from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import DIAGNOSTICS, Diagnostics, diagnostic_means
from verl_lad.objective.divergences import Divergence, get_divergence, register_divergence
from verl_lad.objective.linear import LADLinearLoss, aggregation_weights, lad_linear_loss
from verl_lad.objective.loss import lad_loss
from verl_lad.objective.reference import lad_loss_reference

__all__ = [
    "DIAGNOSTICS",
    "Diagnostics",
    "Divergence",
    "LADConfig",
    "LADLinearLoss",
    "aggregation_weights",
    "diagnostic_means",
    "get_divergence",
    "group_advantages",
    "lad_linear_loss",
    "lad_loss",
    "lad_loss_reference",
    "register_divergence",
]
