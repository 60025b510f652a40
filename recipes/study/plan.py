"""List the study's runs: tasks, bases, methods and seeds. Everything else is the same in all of them.

A new setting is one line of SWEEPS.
"""

from dataclasses import asdict, dataclass
from typing import Any

TASKS = ("digits", "expression", "path")
SEEDS = (0, 1, 2)


def base_name(task: str, kind: str, base_accuracy: float, seed: int) -> str:
    """Return the name of a base model."""
    return f"{task}-{kind}-{base_accuracy}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One run. `env` goes to ../algorithms.sh, `overrides` to Hydra; `group` is the question that the run answers."""

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
        """Name of the run and of its file."""
        return f"{self.group}-{self.task}-{self.method}-seed{self.seed}"

    @property
    def base(self) -> str:
        """Name of the base model."""
        return base_name(self.task, self.kind, self.base_accuracy, self.seed)

    def record(self) -> dict[str, Any]:
        """Return what the first line of the run's file says of it."""
        return {"name": self.name, **asdict(self), "overrides": list(self.overrides)}


@dataclass(frozen=True)
class Setting:
    """A way to train, on every task with each of the seeds."""

    env: dict[str, str]
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    steps: int = 60

    def run(self, group: str, method: str, task: str, seed: int, **change: Any) -> Run:
        """Return one run of the setting."""
        return Run(group, method, task, seed, self.env, self.overrides, **{"steps": self.steps, **change})


def epochs(number: int) -> tuple[str, ...]:
    """Return the override for `number` passes over the samples of a step."""
    return (f"actor_rollout_ref.actor.ppo_epochs={number}",)


def anchored(partition: str, eta: float = 0.125, **more: str) -> dict[str, str]:
    """Return the variables of anchored LAD, at sequence level, where its target is exact. "group" is mass one."""
    return {
        "ALGO": "lad", "ANCHOR": "reference", "ETA": str(eta), "RATIO": "sequence", "PARTITION": partition, **more
    }  # fmt: skip


ALPHA = ("algorithm.lad.alpha=0.8",)

# The main comparison; lad is the paper's setting. The cov methods have ten times the ratios of their papers, since an
# update has 130 to 350 tokens here: they then change at least one token.
MAIN = {
    "grpo": Setting({"ALGO": "grpo"}, seeds=SEEDS),
    "mass_one": Setting(anchored("group"), seeds=SEEDS),
    "grpo_kl": Setting({"ALGO": "grpo_kl", "KL_COEF": "0.125"}, seeds=SEEDS),
    "lad": Setting({"ALGO": "lad"}, seeds=SEEDS),
    "entropy": Setting({"ALGO": "entropy", "ENTROPY_COEFF": "0.01"}, seeds=SEEDS),
    "kl_cov": Setting({"ALGO": "kl_cov", "KL_COV_RATIO": "0.02"}, seeds=SEEDS),
    "clip_cov": Setting({"ALGO": "clip_cov", "CLIP_COV_RATIO": "0.02"}, seeds=SEEDS),
}

# Variations. One that has every seed is compared with BESIDE in pairs.
SWEEPS = {
    "lad-eta0.0625": Setting({"ALGO": "lad", "ETA": "0.0625"}),
    "lad-eta1": Setting({"ALGO": "lad", "ETA": "1"}),
    "lad-sequence": Setting({"ALGO": "lad", "RATIO": "sequence"}),
    "grpo_kl-0.03125": Setting({"ALGO": "grpo_kl", "KL_COEF": "0.03125"}),
    "grpo_kl-0.0625": Setting({"ALGO": "grpo_kl", "KL_COEF": "0.0625"}),
    "grpo_kl-0.25": Setting({"ALGO": "grpo_kl", "KL_COEF": "0.25"}, seeds=SEEDS),
    "mass_one-eta0.0625": Setting(anchored("group", 0.0625)),
    "mass_one-eta0.25": Setting(anchored("group", 0.25)),
    "mass_one-epochs2": Setting(anchored("group"), epochs(2)),
    "mass_one-epochs4": Setting(anchored("group"), epochs(4), seeds=SEEDS),
    "mass_one-token": Setting(anchored("group", RATIO="token")),
    "mass_one-hd": Setting(anchored("group", DIVERGENCE="hd")),
    "mass_one-kl": Setting(anchored("group", DIVERGENCE="kl")),
    "mass_one-alpha0.8": Setting(anchored("group", DIVERGENCE="alpha"), ALPHA),
    "balanced-js": Setting(anchored("balanced"), seeds=SEEDS),
    "balanced-alpha0.8": Setting(anchored("balanced", DIVERGENCE="alpha"), ALPHA, seeds=SEEDS),
    "balanced-js-epochs4": Setting(anchored("balanced"), epochs(4), seeds=SEEDS),
    "balanced-alpha0.8-epochs4": Setting(anchored("balanced", DIVERGENCE="alpha"), (*ALPHA, *epochs(4)), seeds=SEEDS),
    "balanced-kl": Setting(anchored("balanced", DIVERGENCE="kl")),
    "dro-0.25": Setting({"ALGO": "dro", "DRO_BETA": "0.25"}),
    "grpo-epochs4": Setting(MAIN["grpo"].env, epochs(4)),
    "grpo_kl-0.125-nostd": Setting(MAIN["grpo_kl"].env, ("algorithm.norm_adv_by_std_in_grpo=False",)),
    "grpo_kl-0.125-epochs4": Setting(MAIN["grpo_kl"].env, epochs(4), seeds=SEEDS),
}
BESIDE = ("grpo", "lad", "grpo_kl", "mass_one")

# Where anchoring may hurt: a base that is wrong almost everywhere, one that has not learned the task, long responses.
HARD: dict[str, dict[str, Any]] = {
    "wrong": {"task": "digits", "base_accuracy": 0.03},
    "imprecise": {"task": "digits", "kind": "imprecise"},
    "long": {"task": "long_path"},
}
HARD_METHODS = ("grpo", "mass_one", "grpo_kl", "lad", "balanced-js-epochs4")

# What twice the budget brings.
LONGER_METHODS = ("balanced-js-epochs4", "grpo_kl", "grpo")
LONGER_STEPS = 120

# What LAD costs beside what it replaces: the pairs take turns within one launch on a machine that does nothing else.
COST_PAIRS = (("lad", "grpo"), ("mass_one", "grpo_kl"))


def all_runs() -> list[Run]:
    """Return the runs in the order in which they are worth having."""
    settings = MAIN | SWEEPS

    def comparison(group: str, part: dict[str, Setting], seed: int) -> list[Run]:
        return [s.run(group, name, task, seed) for task in TASKS for name, s in part.items() if seed in s.seeds]

    hard = [
        settings[method].run(f"hard_{case}", method, seed=0, **change)
        for case, change in HARD.items()
        for method in HARD_METHODS
    ]
    longer = [
        settings[method].run("longer", method, task, seed=0, steps=LONGER_STEPS)
        for task in TASKS
        for method in LONGER_METHODS
    ]
    cost = [
        settings[method].run("cost", method, "digits", seed, steps=20, measure_every=1)
        for seed in SEEDS
        for pair in COST_PAIRS
        for method in pair
    ]
    main, *more_main = (comparison("main", MAIN, seed) for seed in SEEDS)
    sweeps = [run for seed in SEEDS for run in comparison("sweep", SWEEPS, seed)]
    return [*main, *hard, *(run for part in more_main for run in part), *sweeps, *longer, *cost]
