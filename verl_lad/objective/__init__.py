"""The mathematics of LAD. Knows torch and nothing else: no trainer, no config library."""

from verl_lad.objective.advantages import group_advantages
from verl_lad.objective.config import LADConfig
from verl_lad.objective.diagnostics import DIAGNOSTICS, lad_diagnostics
from verl_lad.objective.divergences import Divergence, get_divergence, register_divergence
from verl_lad.objective.fused import LADLinearLoss, aggregation_weights, lad_linear_loss
from verl_lad.objective.loss import LADTerms, lad_loss, lad_terms
from verl_lad.objective.reference import lad_loss_reference
from verl_lad.objective.responses import LADResponses, lad_responses

__all__ = [
    "DIAGNOSTICS",
    "Divergence",
    "LADConfig",
    "LADLinearLoss",
    "LADResponses",
    "LADTerms",
    "aggregation_weights",
    "get_divergence",
    "group_advantages",
    "lad_diagnostics",
    "lad_linear_loss",
    "lad_loss",
    "lad_loss_reference",
    "lad_responses",
    "lad_terms",
    "register_divergence",
]
