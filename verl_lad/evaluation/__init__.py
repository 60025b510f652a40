"""Measure accuracy and diversity from what trainers write to disk. Knows no trainer.

`make_report` makes the whole report: table, page, figure and `summary.json`. `load_runs` reads the runs alone.
"""

from verl_lad.evaluation.accuracy import pass_at_k
from verl_lad.evaluation.bootstrap import Interval, bootstrap_mean, paired_bootstrap_difference
from verl_lad.evaluation.diversity import collision_probability, dist_n, tokenize
from verl_lad.evaluation.report import Report, make_report
from verl_lad.evaluation.runs import Run, load_runs, read_metrics
from verl_lad.evaluation.validation import Problem, Rules, Validation, read_validation

__all__ = [
    "Interval",
    "Problem",
    "Report",
    "Rules",
    "Run",
    "Validation",
    "bootstrap_mean",
    "collision_probability",
    "dist_n",
    "load_runs",
    "make_report",
    "paired_bootstrap_difference",
    "pass_at_k",
    "read_metrics",
    "read_validation",
    "tokenize",
]
