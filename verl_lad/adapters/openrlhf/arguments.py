"""The flags --actor.lad.* in OpenRLHF's program, and the checks of all arguments before Ray starts.

The launcher changes argparse, because OpenRLHF 0.11.2 leaves nothing else to change without a patch. It builds its
parser under `if __name__ == "__main__"`, so no other module can reach the parser, and the parser's choices refuse
`--actor.policy_loss_type lad`. While the launcher runs the program, `ArgumentParser.parse_args` first adds the flags to
a parser that has OpenRLHF's flag for the loss. So --help lists them, and argparse itself refuses wrong ones. With
patches/openrlhf-0.11.2.patch the program calls `add_arguments` and `check_arguments` itself.
"""

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
PREFIX = "--actor.lad."
HELP = {
    "eta": "temperature of LAD's target pi_old exp(A / eta) / Z, greater than 0",
    "divergence": "f-divergence of LAD: js, hellinger, tv, kl, rkl, jeffreys or alpha",
    "alpha": "order of the divergence alpha",
    "ratio": f"level of LAD's log-ratio: {', '.join(RATIOS)}; token goes with both modes of --actor.loss_agg_mode, "
    "sequence with token-mean, geometric with seq-mean-token-mean",
    "partition": f"constant that each group's advantages lose: {', '.join(PARTITIONS)}; group: the target has mass one",
    "anchor": f"{' or '.join(ANCHORS)}; reference: the target is relative to the reference model and stands still; "
    "needs --algo.kl.init_coef equal to eta and --algo.advantage.estimator dr_grpo",
    "max_log_ratio": "log-ratio beyond which LAD's ratio grows no further",
    "max_log_weight": "limit of A / eta where LAD forms exp(A / eta)",
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


def add_arguments(parser: ArgumentParser) -> None:
    """Let OpenRLHF's flag for the loss be lad, and add --actor.lad.*.

    Raises:
        RuntimeError: if the parser has them already, because OpenRLHF has verl-lad's patch.
    """
    loss_type = _loss_type(parser)
    if NAME in (loss_type.choices or ()):
        raise RuntimeError(
            f"the installed OpenRLHF has the policy loss {NAME} already, by verl-lad's patch: run its own program, "
            "`python -m openrlhf.cli.train_ppo_ray`, with the same flags, or revert the patch (patches/README.md)"
        )
    loss_type.choices = [*(loss_type.choices or ()), NAME]
    group = parser.add_argument_group(f"verl-lad, with {LOSS_TYPE} {NAME}")
    for field in dataclasses.fields(LADConfig):
        text = f"{HELP[field.name]} (default: %(default)s)"
        group.add_argument(f"{PREFIX}{field.name}", type=type(field.default), default=field.default, help=text)


def _loss_type(parser: ArgumentParser) -> Any:
    """Return the parser's argument for the loss, or None if it is not OpenRLHF's. argparse has no public way to it."""
    return parser._option_string_actions.get(LOSS_TYPE)


@contextlib.contextmanager
def lad_arguments() -> Iterator[None]:
    """Add the flags to OpenRLHF's parser when it parses, and check all arguments then."""
    parse_args = ArgumentParser.parse_args

    def parse_and_check(parser: ArgumentParser, *args: Any, **keywords: Any) -> Any:
        if _loss_type(parser) is None:
            return parse_args(parser, *args, **keywords)
        add_arguments(parser)
        arguments = parse_args(parser, *args, **keywords)
        check_arguments(hierarchize(arguments))
        return arguments

    ArgumentParser.parse_args = parse_and_check  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]


def uses_lad(args: Namespace) -> bool:
    """Return whether a run trains with LAD, by OpenRLHF's nested arguments."""
    return bool(args.actor.policy_loss_type == NAME)


def lad_config(args: Namespace) -> LADConfig:
    """Return the settings of the objective from OpenRLHF's nested arguments.

    Raises:
        ValueError: naming the flag, its value and what is allowed.
    """
    return LADConfig.from_keys(vars(args.actor.lad), PREFIX)


def check_arguments(args: Namespace) -> None:
    """Refuse arguments that contradict LAD, and warn of those that are likely not meant.

    Args:
        args: OpenRLHF's, nested, as they were given on the command line.

    Raises:
        ValueError: naming the flags, their values and what is allowed.
    """
    settings = lad_config(args)
    if not uses_lad(args):
        if settings != LADConfig():
            _warn(f"{PREFIX}* is set, but {LOSS_TYPE} is {args.actor.policy_loss_type!r}: no effect")
        return
    _require(args, f"{PREFIX}ratio {settings.ratio}", {"actor.loss_agg_mode": AGGREGATIONS[settings.ratio]})
    if settings.anchor == "reference":
        _require(
            args,
            f"{PREFIX}anchor reference",
            {
                "algo.kl.init_coef": (settings.eta,),
                "algo.kl.use_loss": (False,),
                "algo.kl.estimator": ("k1",),
                "algo.kl.target": (None,),
                "algo.advantage.estimator": ("dr_grpo",),
            },
        )
    elif settings.constant != "none":
        allowed: dict[str, Sequence[Any]] = {"algo.advantage.estimator": OUTCOME_ESTIMATORS}
        if not args.algo.kl.use_loss:
            allowed["algo.kl.init_coef"] = (0,)
        if args.algo.advantage.estimator == "reinforce":  # all others set it to 1
            allowed["algo.advantage.gamma"] = (1,)
        _require(args, f"{PREFIX}partition {settings.partition}", allowed)
    if settings.constant != "none" and args.rollout.n_samples_per_prompt < 2:
        raise ValueError(
            f"--rollout.n_samples_per_prompt {args.rollout.n_samples_per_prompt} does not go with {PREFIX}anchor "
            f"{settings.anchor} and {PREFIX}partition {settings.partition}, which need groups: allowed is 2 or more"
        )
    for remark in _remarks(args, settings):
        _warn(remark)


def _require(args: Namespace, cause: str, allowed: dict[str, Sequence[Any]]) -> None:
    """Raise ValueError unless each argument has one of its allowed values."""
    for key, values in allowed.items():
        value = attrgetter(key)(args)
        if value not in values:
            raise ValueError(
                f"--{key} {value!r} does not go with {LOSS_TYPE} {NAME} and {cause}: "
                f"allowed is {', '.join(map(repr, values))}"
            )


def _warn(message: str) -> None:
    logger.warning("verl-lad: %s", message)


def _remarks(args: Namespace, settings: LADConfig) -> list[str]:
    """Return a warning for each argument that is likely not meant."""
    remarks = []
    estimator = args.algo.advantage.estimator
    if estimator == "gae" or (estimator == "reinforce" and args.algo.advantage.gamma != 1):
        remarks.append(
            f"--algo.advantage.estimator {estimator} (gae is OpenRLHF's default) gives an advantage to each token; LAD "
            "is defined for outcome advantages relative to a group: group_norm, dr_grpo, rloo or reinforce_baseline"
        )
    if args.rollout.n_samples_per_prompt < 2:
        remarks.append(
            f"--rollout.n_samples_per_prompt {args.rollout.n_samples_per_prompt} (OpenRLHF's default) gives LAD one "
            "response a prompt, so no advantage is relative to the prompt's other responses. Set 2 or more"
        )
    if settings.anchor == "old" and args.algo.kl.init_coef > 0 and not args.algo.kl.use_loss:
        remarks.append(
            f"--algo.kl.init_coef {args.algo.kl.init_coef} (0.01 is OpenRLHF's default) puts KL into the reward, and "
            "so another advantage into each token: exp(A / eta) is then no target of LAD's. Set --algo.kl.init_coef "
            f"0, or --algo.kl.use_loss, or {PREFIX}anchor reference with --algo.kl.init_coef {settings.eta}"
        )
    if settings.ratio != "token" and args.algo.advantage.is_correction_level != "off":
        remarks.append(
            f"--algo.advantage.is_correction_level {args.algo.advantage.is_correction_level} weighs each token by a "
            f"ratio of its own, while with {PREFIX}ratio {settings.ratio} the loss is one of the whole response"
        )
    clips = {"eps_clip": 0.2, "eps_clip_low_high": None, "dual_clip": None}
    return remarks + settings.remarks(
        PREFIX,
        clip_keys=[f"--actor.{key}" for key, unset in clips.items() if getattr(args.actor, key) != unset],
        entropy_key=f"--actor.entropy_coef {args.actor.entropy_coef}" if args.actor.entropy_coef else None,
    )
