"""The flags --actor.lad.*, and what is refused or warned of with all arguments in view, before Ray starts."""

import contextlib
import dataclasses
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from openrlhf.utils.config import hierarchize

from verl_lad.adapters.openrlhf import NAME
from verl_lad.objective import LADConfig
from verl_lad.objective.config import ANCHORS, PARTITIONS, RATIOS

logger = logging.getLogger(__name__)

LOSS_TYPE = "--actor.policy_loss_type"
SECTION = "--actor.lad"
HELP = {
    "eta": "temperature of LAD's target pi_old exp(A / eta) / Z, greater than 0",
    "divergence": "f-divergence of LAD: js, hellinger, tv, kl, rkl, jeffreys or alpha",
    "alpha": "order of the divergence alpha",
    "ratio": f"level of LAD's log-ratio: {', '.join(RATIOS)}; token goes with both modes of --actor.loss_agg_mode, "
    "sequence with token-mean, geometric with seq-mean-token-mean",
    "partition": f"{' or '.join(PARTITIONS)}; group: each group's target has mass one",
    "anchor": f"{' or '.join(ANCHORS)}; reference: the target is relative to the reference model and stands still; "
    "with --algo.kl.init_coef equal to eta and --algo.advantage.estimator dr_grpo",
    "max_log_ratio": "beyond it LAD's ratio grows no further",
    "max_log_weight": "limit of A / eta where its exponential itself is formed",
    "compile": "evaluate LAD's loss under torch.compile",
}
AGGREGATIONS = {
    "token": ("token-mean", "seq-mean-token-mean"),
    "sequence": ("token-mean",),
    "geometric": ("seq-mean-token-mean",),
}
"""Ratio -> modes of --actor.loss_agg_mode under which the gradient is that of the objective.

A sequence's loss is spread over its tokens, so that token-mean is the sum over responses, divided by the number of
tokens of the whole optimizer step: the paper's objective up to a factor that all responses share.
"""
OUTCOME_ESTIMATORS = ("reinforce", "rloo", "reinforce_baseline", "group_norm", "dr_grpo", "flash_reinforce")
"""Estimators that give all tokens of a response the same advantage, if the reward has no KL in it and gamma is 1."""


@contextlib.contextmanager
def lad_arguments() -> Iterator[None]:
    """Lets --actor.policy_loss_type be lad, adds --actor.lad.* beside it, and checks them all when they are parsed.

    OpenRLHF builds its parser where no function can be called for it, so argparse's own class is changed meanwhile. A
    parser without OpenRLHF's flag for the loss is as it was.
    """
    add_argument, parse_args = ArgumentParser.add_argument, ArgumentParser.parse_args

    def add_argument_and_ours(parser: ArgumentParser, *names: Any, **keywords: Any) -> Any:
        if LOSS_TYPE in names:
            keywords["choices"] = [*keywords["choices"], NAME]
            for field in dataclasses.fields(LADConfig):
                switch = isinstance(field.default, bool)
                add_argument(
                    parser,
                    f"{SECTION}.{field.name}",
                    **({"action": "store_true"} if switch else {"type": type(field.default), "default": field.default}),
                    help=f"{HELP[field.name]} (verl-lad, default: %(default)s)",
                )
        return add_argument(parser, *names, **keywords)

    def parse_and_check(parser: ArgumentParser, *args: Any, **keywords: Any) -> Any:
        arguments = parse_args(parser, *args, **keywords)
        if LOSS_TYPE.removeprefix("--") in vars(arguments):
            check_arguments(hierarchize(arguments))
        return arguments

    ArgumentParser.add_argument = add_argument_and_ours  # type: ignore[method-assign,assignment]
    ArgumentParser.parse_args = parse_and_check  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ArgumentParser.add_argument = add_argument  # type: ignore[method-assign]
        ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]


def uses_lad(args: Namespace) -> bool:
    """Whether a run trains with LAD, by OpenRLHF's nested arguments."""
    return bool(args.actor.policy_loss_type == NAME)


def lad_config(args: Namespace) -> LADConfig:
    """The settings of the objective from OpenRLHF's nested arguments.

    Raises:
        ValueError: naming the flag, its value and what is allowed.
    """
    try:
        return LADConfig(**vars(args.actor.lad))
    except ValueError as error:
        raise ValueError(f"{SECTION}.{error}") from error


def check_arguments(args: Namespace) -> None:
    """Refuses what cannot be right, and warns of what is likely not meant.

    Args:
        args: OpenRLHF's, nested, as they were given on the command line.

    Raises:
        ValueError: naming the flags, their values and what is allowed.
    """
    settings = lad_config(args)
    if not uses_lad(args):
        if settings != LADConfig():
            _warn(f"{SECTION}.* is set, but {LOSS_TYPE} is {args.actor.policy_loss_type!r}: no effect")
        return
    _require(args, f"{SECTION}.ratio {settings.ratio}", {"actor.loss_agg_mode": AGGREGATIONS[settings.ratio]})
    if settings.anchor == "reference":
        _require(
            args,
            f"{SECTION}.anchor reference",
            {
                "algo.kl.init_coef": (settings.eta,),
                "algo.kl.use_loss": (False,),
                "algo.kl.estimator": ("k1",),
                "algo.kl.target": (None,),
                "algo.advantage.estimator": ("dr_grpo",),
            },
        )
    elif settings.partition == "group":
        allowed: dict[str, Sequence[Any]] = {"algo.advantage.estimator": OUTCOME_ESTIMATORS}
        if not args.algo.kl.use_loss:
            allowed["algo.kl.init_coef"] = (0,)
        if args.algo.advantage.estimator == "reinforce":  # all others set it to 1
            allowed["algo.advantage.gamma"] = (1,)
        _require(args, f"{SECTION}.partition group", allowed)
    if (settings.anchor == "reference" or settings.partition == "group") and args.rollout.n_samples_per_prompt < 2:
        raise ValueError(
            f"--rollout.n_samples_per_prompt {args.rollout.n_samples_per_prompt} does not go with {SECTION}.anchor "
            f"{settings.anchor} and {SECTION}.partition {settings.partition}, which need groups: allowed is 2 or more"
        )
    _warn_of_arguments(args, settings)


def _require(args: Namespace, by: str, allowed: dict[str, Sequence[Any]]) -> None:
    for key, values in allowed.items():
        value = attrgetter(key)(args)
        if value not in values:
            raise ValueError(
                f"--{key} {value!r} does not go with {LOSS_TYPE} {NAME} and {by}: "
                f"allowed is {', '.join(map(repr, values))}"
            )


def _warn(message: str) -> None:
    logger.warning("verl-lad: %s", message)


def _warn_of_arguments(args: Namespace, settings: LADConfig) -> None:
    estimator = args.algo.advantage.estimator
    if estimator == "gae" or (estimator == "reinforce" and args.algo.advantage.gamma != 1):
        _warn(
            f"--algo.advantage.estimator {estimator} (gae is OpenRLHF's default) gives an advantage to each token; LAD "
            "is defined for outcome advantages relative to a group: group_norm, dr_grpo, rloo or reinforce_baseline"
        )
    if settings.anchor == "old" and args.algo.kl.init_coef > 0 and not args.algo.kl.use_loss:
        _warn(
            f"--algo.kl.init_coef {args.algo.kl.init_coef} (0.01 is OpenRLHF's default) puts KL into the reward, and "
            "so another advantage into each token: exp(A / eta) is then no target of LAD's. Set --algo.kl.init_coef "
            f"0, or --algo.kl.use_loss, or {SECTION}.anchor reference with --algo.kl.init_coef {settings.eta}"
        )
    if settings.ratio != "token" and args.algo.advantage.is_correction_level != "off":
        _warn(
            f"--algo.advantage.is_correction_level {args.algo.advantage.is_correction_level} weighs each token by a "
            f"ratio of its own, while with {SECTION}.ratio {settings.ratio} the loss is one of the whole response"
        )
    if args.actor.eps_clip != 0.2 or args.actor.eps_clip_low_high is not None or args.actor.dual_clip is not None:
        _warn("--actor.eps_clip, --actor.eps_clip_low_high, --actor.dual_clip: LAD does not clip; no effect")
    if args.actor.entropy_coef:
        _warn(
            f"--actor.entropy_coef {args.actor.entropy_coef}: LAD's target keeps the spread by itself; the bonus is "
            "added all the same and moves the optimum away from the target"
        )
    if settings.divergence.lower() == "tv" and settings.partition == "none" and settings.anchor == "old":
        _warn(
            f"{SECTION}.divergence tv is not strictly convex: without {SECTION}.partition group its minimiser is not "
            "unique"
        )
