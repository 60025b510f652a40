"""Measure accuracy and diversity from what trainers write to disk. Knows no trainer.

`make_report` makes the whole report: table, page, figures and `summary.json`. `load_runs` reads the runs alone.
"""

from verl_lad.evaluation.accuracy import avg_at_k, pass_at_k
from verl_lad.evaluation.bootstrap import Interval, bootstrap_mean, paired_bootstrap_difference
from verl_lad.evaluation.diversity import (
    EffectiveSolutions,
    collision_probability,
    effective_solutions,
    shannon_entropy,
)
from verl_lad.evaluation.metrics import read_metrics
from verl_lad.evaluation.page import Report, make_report
from verl_lad.evaluation.runs import Run, load_runs
from verl_lad.evaluation.text_diversity import dist_n
from verl_lad.evaluation.validation import Problem, Rules, Validation, read_validation

__all__ = [
    "EffectiveSolutions",
    "Interval",
    "Problem",
    "Report",
    "Rules",
    "Run",
    "Validation",
    "avg_at_k",
    "bootstrap_mean",
    "collision_probability",
    "dist_n",
    "effective_solutions",
    "load_runs",
    "make_report",
    "paired_bootstrap_difference",
    "pass_at_k",
    "read_metrics",
    "read_validation",
    "shannon_entropy",
]
