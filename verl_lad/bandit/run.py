"""Train every method in every setting, in float64."""

import platform
import time
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from verl_lad.bandit import problem
from verl_lad.objective import LADConfig
from verl_lad.version import __version__

LEARNING_RATE = 5e-3
SAMPLES = REFRESH_EVERY = 16  # as in DAPO (arXiv 2503.14476): responses to a prompt, and updates on one rollout
EXPECTATIONS = ("exact", "sampled")  # the sum over all arms, or SAMPLES arms drawn from pi_old at each step
BEHAVIOURS = ("fixed", "refreshed")  # pi_old is pi_0, as in the paper, or the current policy every REFRESH_EVERY steps
SETTINGS = tuple(product(EXPECTATIONS, problem.HEIGHTS, BEHAVIOURS))
KEYS = ("method", "expectation", "heights", "behaviour", "seed")
MEASURES = ("total_variation", "kl_policy_target", "kl_target_policy", "entropy", "modes_recovered")
TRACE_POINTS = 40


@dataclass(frozen=True)
class BanditConfig:
    """Settings of the experiment. Raise ValueError naming the setting, its value and what is allowed."""

    eta: float = 0.25  # temperature of the target, the paper's in its main math setting
    seeds: int = 5  # each seed has its own initial logits, standard normal, and its own samples
    steps: int = 4000  # as the paper is reported to use

    def __post_init__(self) -> None:
        LADConfig(self.eta)
        for name, value in (("seeds", self.seeds), ("steps", self.steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed: an integer of at least 1")


def run_bandit(config: BanditConfig) -> dict[str, Any]:
    """Train all methods in all settings at once, and return the content of bandit.json."""
    began = time.perf_counter()
    methods = problem.all_methods(config.eta)
    generators = [torch.Generator().manual_seed(seed) for seed in range(config.seeds)]
    initial_logits = torch.stack([torch.randn(problem.ARMS, generator=g, dtype=torch.float64) for g in generators])
    uniform = torch.stack([torch.rand(config.steps, SAMPLES, generator=g, dtype=torch.float64) for g in generators], 1)
    initial = initial_logits.log_softmax(-1)  # (S, 50), S seeds
    scores = torch.stack([problem.SCORES[heights] for _, heights, _ in SETTINGS])[:, None]  # (settings, 1, 50)
    target = problem.target_log_prob(initial, scores, config.eta)  # (settings, S, 50)
    sampled = torch.tensor([expectation == "sampled" for expectation, _, _ in SETTINGS]).view(-1, 1, 1)
    refreshed = torch.tensor([behaviour == "refreshed" for _, _, behaviour in SETTINGS]).view(-1, 1, 1)
    steps = sorted({config.steps * i // TRACE_POINTS for i in range(TRACE_POINTS + 1)})

    logits = initial_logits.expand(len(methods), *target.shape).clone().requires_grad_()  # (methods, settings, S, 50)
    optimiser = torch.optim.Adam([logits], lr=LEARNING_RATE)  # elementwise: the runs do not touch each other
    trace = []
    for step in range(config.steps + 1):
        log_prob = logits.log_softmax(-1)
        if step in steps:
            trace.append(_measure(log_prob.detach(), initial, target))
        if step == config.steps:
            break
        if step % REFRESH_EVERY == 0:
            old = torch.where(refreshed, log_prob.detach(), initial)
        weights = torch.where(sampled, draw(old.exp(), uniform[step]), old.exp())
        losses = [
            problem.policy_losses(method, log_prob[i], old[i], initial, scores, weights[i])
            for i, method in enumerate(methods.values())
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
    traced, final = torch.stack(trace, -1), log_prob.detach().exp()  # (measures, methods, settings, S, T)
    return {
        "configuration": {
            **asdict(config),
            **{"arms": problem.ARMS, "centres": problem.CENTRES, "width": problem.WIDTH, "heights": problem.HEIGHTS},
            **{"initial_logits": "standard normal", "optimiser": "Adam", "learning_rate": LEARNING_RATE},
            **{"samples": SAMPLES, "refresh_every": REFRESH_EVERY},
            "methods": {name: asdict(method) for name, method in methods.items()},
        },
        "versions": {"verl_lad": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "seconds": round(time.perf_counter() - began, 1),
        "scores": {heights: scores.tolist() for heights, scores in problem.SCORES.items()},
        "initial_policy": initial.exp().tolist(),
        "target_policy": {heights: x.exp().tolist() for (_, heights, _), x in zip(SETTINGS, target, strict=True)},
        "trace_steps": steps,
        "runs": [
            {
                **dict(zip(KEYS, (name, *setting, seed), strict=True)),
                "final_policy": final[m, s, seed].tolist(),
                "trace": {measure: traced[i, m, s, seed].tolist() for i, measure in enumerate(MEASURES)},
            }
            for (m, name), (s, setting), seed in product(enumerate(methods), enumerate(SETTINGS), range(config.seeds))
        ],
    }


def draw(policy: Tensor, uniform: Tensor) -> Tensor:
    """Draw arms of policies (..., S, 50) by uniform numbers (S, n); return each arm's share of the n, (..., S, 50)."""
    cumulative = policy.cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]  # ends in 1 exactly, above every uniform number
    arms = torch.searchsorted(cumulative, uniform.expand(*policy.shape[:-1], -1).contiguous(), right=True)
    return torch.zeros_like(policy).scatter_add_(-1, arms, torch.ones_like(arms, dtype=policy.dtype)) / arms.shape[-1]


def _measure(log_prob: Tensor, initial: Tensor, target: Tensor) -> Tensor:
    """Return MEASURES, (measures, ...), of policies log_prob (..., 50), given log pi_0 and log pi*."""
    pi, goal = log_prob.exp(), target.exp()
    kl_policy = (pi * (log_prob - target)).sum(-1).clamp(min=0)  # rounding can make it negative
    kl_target = (goal * (target - log_prob)).sum(-1).clamp(min=0)
    modes = problem.modes_recovered(pi, initial.exp(), goal).to(pi.dtype)
    return torch.stack([0.5 * (pi - goal).abs().sum(-1), kl_policy, kl_target, -(pi * log_prob).sum(-1), modes])
