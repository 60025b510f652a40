"""Read what `run_bandit` returned."""

import torch

from verl_lad.bandit.results import traces


def final(document, method, expectation, behaviour, heights="unequal"):
    """Return the policies after the last step, (S, 50) float64."""
    setting = {"method": method, "expectation": expectation, "behaviour": behaviour, "heights": heights}
    runs = [run for run in document["runs"] if setting.items() <= run.items()]
    return torch.tensor([run["final_policy"] for run in runs], dtype=torch.float64)


def last(document, measure, method, expectation, behaviour, heights="unequal"):
    """Return a measure after the last step, (S,)."""
    return traces(document, measure, method, expectation, heights, behaviour)[:, -1]


def all_final(document):
    """Return every run's last policy, (runs, 50) float64."""
    return torch.tensor([run["final_policy"] for run in document["runs"]], dtype=torch.float64)
