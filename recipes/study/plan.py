"""The study's runs: which tasks, bases, methods and seeds. Everything else is the same in all of them."""

from dataclasses import asdict, dataclass
from typing import Any

TASKS = ("digits", "expression", "path")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """`env` goes to ../algorithms.sh, `overrides` to Hydra; `group` says which question of the study it answers."""

    group: str
    method: str
    task: str
    seed: int
    env: dict[str, str]
    overrides: tuple[str, ...] = ()
    steps: int = 60
    kind: str = "calibrated"
    base_accuracy: float = 0.4
    measure_every: int = 2

    @property
    def name(self) -> str:
        return f"{self.group}-{self.task}-{self.method}-seed{self.seed}"

    @property
    def base(self) -> str:
        return f"{self.task}-{self.kind}-{self.base_accuracy}-seed{self.seed}"

    def record(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self), "overrides": list(self.overrides)}


def epochs(number: int) -> tuple[str, ...]:
    return (f"actor_rollout_ref.actor.ppo_epochs={number}",)


def anchored(eta: float = 0.125, **more: str) -> dict[str, str]:
    """At the level of the paper's equation, under which the anchored target is exact."""
    return {"ALGO": "lad_anchored", "ETA": str(eta), "RATIO": "sequence", **more}


# The main comparison. lad is the paper's setting; the cov methods change one token of an update's 130 to 350 with their
# papers' ratios, so that theirs are larger here.
MAIN: dict[str, dict[str, str]] = {
    "grpo": {"ALGO": "grpo"},
    "lad_anchored": anchored(),
    "grpo_kl": {"ALGO": "grpo_kl", "KL_COEF": "0.125"},
    "lad": {"ALGO": "lad"},
    "entropy": {"ALGO": "entropy", "ENTROPY_COEFF": "0.01"},
    "kl_cov": {"ALGO": "kl_cov", "KL_COV_RATIO": "0.02"},
    "clip_cov": {"ALGO": "clip_cov", "CLIP_COV_RATIO": "0.02"},
}

# What is varied, on every task with seed 0.
SWEEPS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "lad-eta0.0625": ({"ALGO": "lad", "ETA": "0.0625"}, ()),
    "lad-eta1": ({"ALGO": "lad", "ETA": "1"}, ()),
    "lad-sequence": ({"ALGO": "lad", "RATIO": "sequence"}, ()),
    "grpo_kl-0.03125": ({"ALGO": "grpo_kl", "KL_COEF": "0.03125"}, ()),
    "grpo_kl-0.0625": ({"ALGO": "grpo_kl", "KL_COEF": "0.0625"}, ()),
    "anchored-eta0.0625": (anchored(0.0625), ()),
    "anchored-eta0.25": (anchored(0.25), ()),
    "anchored-epochs2": (anchored(), epochs(2)),
    "anchored-epochs4": (anchored(), epochs(4)),
    "anchored-token": (anchored(RATIO="token"), ()),
    "anchored-hd": (anchored(DIVERGENCE="hd"), ()),
    "anchored-kl": (anchored(DIVERGENCE="kl"), ()),
    "anchored-alpha0.8": (anchored(DIVERGENCE="alpha"), ("algorithm.lad.alpha=0.8",)),
    "grpo_kl-0.125-nostd": ({"ALGO": "grpo_kl", "KL_COEF": "0.125"}, ("algorithm.norm_adv_by_std_in_grpo=False",)),
    "grpo_kl-0.125-epochs4": ({"ALGO": "grpo_kl", "KL_COEF": "0.125"}, epochs(4)),
}

# Of what is varied, the one that might be a preset: on every task with every seed, and what it has to be better than.
CANDIDATE = "anchored-epochs4"
CANDIDATE_BESIDE = ("grpo", "lad", "grpo_kl", "lad_anchored")

# Where anchoring may hurt: a base that is wrong almost everywhere, one that has not learned the task, long responses.
HARD: dict[str, dict[str, Any]] = {
    "wrong": {"task": "digits", "base_accuracy": 0.03},
    "imprecise": {"task": "digits", "kind": "imprecise"},
    "long": {"task": "long_path"},
}
HARD_METHODS = ("grpo", "lad_anchored", "grpo_kl", "lad")

# What LAD costs beside what it replaces: the pairs take turns within one launch on a machine that does nothing else.
COST_PAIRS = (("lad", "grpo"), ("lad_anchored", "grpo_kl"))


def all_runs() -> list[Run]:
    """In the order in which they are worth having."""
    main = {
        seed: [Run("main", method, task, seed, env) for task in TASKS for method, env in MAIN.items()] for seed in SEEDS
    }
    hard = [
        Run(f"hard_{name}", method, seed=0, env=MAIN[method], **change)
        for name, change in HARD.items()
        for method in HARD_METHODS
    ]
    sweeps = [
        Run("sweep", method, task, 0, env, overrides) for task in TASKS for method, (env, overrides) in SWEEPS.items()
    ]
    cost = [
        Run("cost", method, "digits", seed, MAIN[method], steps=20, measure_every=1)
        for seed in SEEDS
        for pair in COST_PAIRS
        for method in pair
    ]
    candidate = [Run("sweep", CANDIDATE, task, seed, *SWEEPS[CANDIDATE]) for seed in SEEDS[1:] for task in TASKS]
    return [*main[0], *hard, *main[1], *main[2], *sweeps, *candidate, *cost]
