"""Run the paper's controlled experiment, a bandit with three modes. Knows the objective, and nothing of trainers."""

from verl_lad.bandit.results import draw_figure, format_table
from verl_lad.bandit.run import BanditConfig, run_bandit

__all__ = ["BanditConfig", "draw_figure", "format_table", "run_bandit"]
