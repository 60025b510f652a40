"""Trains every policy of the experiment at once.

All policies are rows of one tensor of logits with the axes

    M methods, E expectations, L landscapes, B behaviour policies, S seeds, 50 arms

under one Adam, which works element by element, so that the runs do not touch each other. Each step calls the package's
`lad_loss` once for each LAD method, for all of its runs together. Float64 throughout, on one thread: the tensors are
too small for a second one to pay.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_lad.bandit.methods import Method, all_methods, regulariser, surrogate_loss
from verl_lad.bandit.problem import ARMS, HEIGHTS, expected_advantages, landscape, modes_recovered, target_log_prob
from verl_lad.objective import LADConfig, group_advantages, lad_loss

LEARNING_RATE = 5e-3
"""The paper's, as reported. Its optimiser is not known to us: Adam with torch's defaults is our choice."""
EXPECTATIONS = ("exact", "sampled")
"""exact: the sum over all arms, weighted by the behaviour policy. sampled: SAMPLES arms drawn from it at each step,
with advantages relative to their own group, as in training."""
SAMPLES = 16
"""Arms drawn in a step, ours: the responses to a prompt in DAPO (arXiv 2503.14476)."""
BEHAVIOURS = ("fixed", "refreshed")
"""fixed, the paper's: pi_old is the initial policy throughout. refreshed: pi_old is the current policy, taken anew
every REFRESH_EVERY steps, as in training."""
REFRESH_EVERY = 16
"""Ours: the updates on one rollout in DAPO (arXiv 2503.14476)."""
TRACE_POINTS = 40
"""Points of a trace after step 0, or all steps where there are fewer."""
MEASURES = ("total_variation", "kl_policy_target", "kl_target_policy", "entropy", "modes_recovered")
"""What is traced: TV(pi, pi*), KL(pi || pi*), KL(pi* || pi) and H(pi), in nats, and the number of modes, of three."""


@dataclass(frozen=True)
class BanditConfig:
    """Settings of the experiment.

    Attributes:
        eta: temperature of the target. At 1/4, the paper's value in its main math setting, pi* prefers the best arm by
            a factor of exp(4) = 55 to a worthless one of equal pi_0.
        seeds: seeds 0 to seeds - 1 are run; each has its own initial logits, standard normal, and its own samples.
        steps: the paper's 4000, as reported.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """

    eta: float = 0.25
    seeds: int = 5
    steps: int = 4000

    def __post_init__(self) -> None:
        LADConfig(self.eta)
        for name in ("seeds", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed: an integer of at least 1")


@dataclass(frozen=True)
class BanditResult:
    """What came of it. M, E, L, B, S: methods, and as EXPECTATIONS, HEIGHTS, BEHAVIOURS and seeds in their order.

    Attributes:
        config: the settings.
        methods: the methods, M.
        steps: steps of the trace, T, from 0 to the last.
        initial: (S, 50) pi_0.
        target: (L, S, 50) pi*.
        trace: (T, len(MEASURES), M, E, L, B, S), the second axis in the order of MEASURES.
        final: (M, E, L, B, S, 50) the policies after the last step.
        seconds: wall time.
    """

    config: BanditConfig
    methods: list[Method]
    steps: list[int]
    initial: Tensor
    target: Tensor
    trace: Tensor
    final: Tensor
    seconds: float

    def values(self, measure: str, method: str, expectation: str, heights: str, behaviour: str) -> Tensor:
        """(T, S) trace of a measure, named as in MEASURES, of one method in one setting."""
        return self.trace[
            :,
            MEASURES.index(measure),
            [m.name for m in self.methods].index(method),
            EXPECTATIONS.index(expectation),
            list(HEIGHTS).index(heights),
            BEHAVIOURS.index(behaviour),
        ]


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread within: on a busy machine, waiting for a second one has cost ten times the computation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def run_bandit(config: BanditConfig | None = None) -> BanditResult:
    """Train all methods in all settings. Deterministic.

    Args:
        config: the settings; BanditConfig() if None.
    """
    config = config or BanditConfig()
    began = time.perf_counter()
    methods = all_methods(config.eta)
    generators = [torch.Generator().manual_seed(seed) for seed in range(config.seeds)]
    initial_logits = torch.stack([torch.randn(ARMS, generator=g, dtype=torch.float64) for g in generators])
    initial = initial_logits.log_softmax(-1)  # (S, 50)
    scores = torch.stack([landscape(heights) for heights in HEIGHTS.values()])[:, None, None]  # (L, 1, 1, 50)
    target = target_log_prob(initial, scores, config.eta)  # (L, 1, S, 50)
    shape = (len(methods), len(EXPECTATIONS), len(HEIGHTS), len(BEHAVIOURS), config.seeds, ARMS)
    logits = initial_logits.expand(shape).clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LEARNING_RATE)
    old = _Behaviour(methods, scores, initial, shape, config)

    traced = _traced_steps(config.steps)
    trace = [_measure(logits.detach(), initial, target)]
    for step in range(config.steps):
        log_prob = logits.log_softmax(-1)
        if step % REFRESH_EVERY == 0:
            old.refresh(log_prob.detach())
            uniform = torch.stack(
                [torch.rand(REFRESH_EVERY, SAMPLES, generator=g, dtype=torch.float64) for g in generators], dim=1
            )  # (REFRESH_EVERY, S, SAMPLES), the same for all methods and settings
        optimiser.zero_grad()
        _total_loss(old, log_prob, uniform[step % REFRESH_EVERY]).backward()
        optimiser.step()
        if step + 1 in traced:
            trace.append(_measure(logits.detach(), initial, target))
    return BanditResult(
        config=config,
        methods=methods,
        steps=traced,
        initial=initial.exp(),
        target=target.squeeze(1).exp(),
        trace=torch.stack(trace),
        final=logits.detach().softmax(-1),
        seconds=time.perf_counter() - began,
    )


def _traced_steps(steps: int) -> list[int]:
    """0, the last step, and evenly between them."""
    points = min(TRACE_POINTS, steps)
    return [steps * i // points for i in range(points + 1)]


def _measure(logits: Tensor, initial: Tensor, target: Tensor) -> Tensor:
    """(len(MEASURES), M, E, L, B, S) of logits (M, E, L, B, S, 50), in the order of MEASURES."""
    log_prob = logits.log_softmax(-1)
    pi, goal = log_prob.exp(), target.exp()
    return torch.stack(
        [
            0.5 * (pi - goal).abs().sum(-1),
            (pi * (log_prob - target)).sum(-1).clamp(min=0),  # rounding can make it negative
            (goal * (target - log_prob)).sum(-1).clamp(min=0),
            -(pi * log_prob).sum(-1),
            modes_recovered(pi, initial.exp(), goal).to(pi.dtype),
        ]
    )


class _Behaviour:
    """The policies that sample, with what is constant until they are refreshed."""

    def __init__(
        self, methods: list[Method], scores: Tensor, initial: Tensor, shape: tuple[int, ...], config: BanditConfig
    ) -> None:
        self.methods = methods
        self.scores = scores.expand(shape[2:])  # (L, B, S, 50)
        self.initial = initial  # (S, 50)
        self.log_prob = initial.expand(shape).clone()  # (M, E, L, B, S, 50)
        # Which methods share a way to make advantages: coefficient of K in the score, and LAD's partition and anchor.
        self.kinds: dict[tuple[float, LADConfig], list[int]] = {}
        for i, method in enumerate(methods):
            lad = method.lad or LADConfig()
            kind = LADConfig(config.eta, partition=lad.partition, anchor=lad.anchor)
            self.kinds.setdefault((method.kl_reward, kind), []).append(i)

    def refresh(self, current: Tensor) -> None:
        """Take the current policies, (M, E, L, B, S, 50), where the behaviour policy is to be refreshed."""
        refreshed = BEHAVIOURS.index("refreshed")
        self.log_prob[:, :, :, refreshed] = current[:, :, :, refreshed]
        self.exact, self.sampling = self.log_prob.unbind(1)  # (M, L, B, S, 50)
        self.exact_advantages = torch.empty_like(self.exact)
        for (kl_reward, kind), of in self.kinds.items():
            scores = self.scores - kl_reward * (self.exact[of] - self.initial)
            self.exact_advantages[of] = expected_advantages(scores, self.exact[of], self.initial, kind)
        cumulative = self.sampling.exp().cumsum(-1)
        self.cumulative = cumulative / cumulative[..., -1:]  # ends in 1 exactly, above every uniform number

    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw arms by uniform numbers (S, SAMPLES): the arms, their log pi_old and A, all (M, L, B, S, SAMPLES)."""
        uniform = uniform.expand(*self.cumulative.shape[:-1], SAMPLES).contiguous()
        arms = torch.searchsorted(self.cumulative, uniform, right=True)
        log_prob = self.sampling.gather(-1, arms)
        scores = self.scores.expand_as(self.sampling).gather(-1, arms)
        K = log_prob - self.initial.expand_as(self.sampling).gather(-1, arms)
        advantages = torch.empty_like(log_prob)
        for (kl_reward, kind), of in self.kinds.items():
            s = scores[of] - kl_reward * K[of]
            A = group_advantages(
                s.flatten(),
                torch.arange(s[..., 0].numel()).repeat_interleave(SAMPLES),
                kind,
                norm_by_std=False,
                reference_log_ratio=K[of].flatten() if kind.anchor == "reference" else None,
            )
            advantages[of] = A.view_as(s)
        return arms, log_prob, advantages


def _total_loss(old: _Behaviour, log_prob: Tensor, uniform: Tensor) -> Tensor:
    """Sum of the losses of all runs at log pi (M, E, L, B, S, 50)."""
    exact, sampled = log_prob.unbind(1)
    arms, sampled_old, sampled_advantages = old.sample(uniform)

    def join(of_arms: Tensor, of_samples: Tensor) -> list[Tensor]:
        """All one-token responses of each method, a vector: every arm of the exact runs, the sampled ones' samples."""
        return list(torch.cat([of_arms.flatten(1), of_samples.flatten(1)], dim=1).unbind(0))

    log_probs = join(exact, sampled.gather(-1, arms))
    old_log_probs = join(old.exact, sampled_old)
    advantages = join(old.exact_advantages, sampled_advantages)
    weights = join(old.exact.exp(), torch.full_like(sampled_old, 1 / SAMPLES))
    mask = torch.ones_like(log_probs[0]).unsqueeze(-1)

    total = log_prob.new_zeros(())
    for i, method in enumerate(old.methods):
        if method.lad is not None:
            tokens = (log_probs[i].unsqueeze(-1), old_log_probs[i].unsqueeze(-1))
            losses = lad_loss(*tokens, advantages[i], mask, method.lad).squeeze(-1)
        else:
            losses = surrogate_loss(log_probs[i], old_log_probs[i], advantages[i], method.clip)
        total = total + torch.dot(weights[i], losses)
        if method.entropy or method.kl_loss:
            total = total + regulariser(method, log_prob[i], old.initial).sum()
    return total
