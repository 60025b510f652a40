"""The paper's controlled experiment: a bandit with three modes. Knows the objective, and nothing of trainers."""

from verl_lad.bandit.figure import draw_figure
from verl_lad.bandit.results import format_table, write_json
from verl_lad.bandit.run import BanditConfig, BanditResult, run_bandit

__all__ = ["BanditConfig", "BanditResult", "draw_figure", "format_table", "run_bandit", "write_json"]
