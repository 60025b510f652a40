"""The settings of the objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from verl_lad.objective.divergences import ALPHA_RANGE, get_divergence

RATIOS = ("token", "sequence", "geometric")
PARTITIONS = ("none", "group", "balanced")
ANCHORS = ("old", "reference")
NUMBERS = ("eta", "alpha", "max_log_ratio", "max_log_weight")
"""Fields that hold a number; `LADConfig.from_keys` reads them from text as well."""
MIN_ETA, MAX_ETA = 1e-6, 1e6
"""Range of eta: A / eta and its products with rho stay within float32."""
MIN_EXPONENT, MAX_EXPONENT = 1e-3, 21.0
"""Range of max_log_ratio and max_log_weight: exp of four times it, the largest formed, still fits float32."""


@dataclass(frozen=True)
class LADConfig:
    """Settings of LAD, all checked on construction.

    Attributes:
        eta: temperature eta > 0 of the target pi_old exp(A / eta) / Z. The paper's main math setting is 1/eta = 4.
        divergence: js (the paper's choice), hellinger (hd), tv, kl, rkl, jeffreys (jf), alpha, or a registered name.
        alpha: order of divergence="alpha"; unused otherwise.
        ratio: the level of the log-ratio l of a response y. token: l_t at each token; sequence: sum_t l_t (the paper's
            equation; belongs to loss_agg_mode=seq-mean-token-sum); geometric: mean_t l_t (as GSPO; belongs to
            seq-mean-token-mean).
        partition: the constant that is subtracted from the advantages of each group. none: none, the paper's way;
            group: the target exp(A / eta) gets mass one in the group; balanced: the group's loss weights sum to zero
            at rho = 1. `divergence="tv"` needs group.
        anchor: old: the target is relative to pi_old, as in the paper; reference: relative to the fixed reference
            policy, so that the target stands still. The latter never divides by the standard deviation, and
            partition="none" means "balanced" with it.
        max_log_ratio: beyond it rho = exp(l) grows no further; l - u, and with it the force towards the target, stays.
        max_log_weight: limit of u = A / eta where exp(u) or exp(-u) itself is formed (hellinger, rkl, jeffreys, alpha).

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    eta: float = 0.25
    divergence: str = "js"
    alpha: float = 0.5
    ratio: str = "token"
    partition: str = "none"
    anchor: str = "old"
    max_log_ratio: float = 20.0
    max_log_weight: float = 20.0

    def __post_init__(self) -> None:
        exponents = f"a finite number from {MIN_EXPONENT:g} to {MAX_EXPONENT:g}"
        for name, low, high, requirement in (
            ("eta", MIN_ETA, MAX_ETA, f"a finite number greater than 0, from {MIN_ETA:g} to {MAX_ETA:g}"),
            ("alpha", *ALPHA_RANGE, f"a finite number from {ALPHA_RANGE[0]:g} to {ALPHA_RANGE[1]:g}"),
            ("max_log_ratio", MIN_EXPONENT, MAX_EXPONENT, exponents),
            ("max_log_weight", MIN_EXPONENT, MAX_EXPONENT, exponents),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                text = " (this is text)" if isinstance(value, str) else ""
                raise ValueError(f"{name}={value!r}{text} is not allowed: {requirement}")
        get_divergence(self.divergence, self.alpha)
        for name, allowed in (("ratio", RATIOS), ("partition", PARTITIONS), ("anchor", ANCHORS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: one of {', '.join(allowed)}")

    @property
    def constant(self) -> str:
        """The partition in effect: "balanced" for an anchored target unless another was chosen."""
        return "balanced" if self.anchor == "reference" and self.partition == "none" else self.partition

    @classmethod
    def from_keys(cls, keys: "Mapping[str, Any] | LADConfig | None", prefix: str) -> "LADConfig":
        """Make the settings from a framework's own keys.

        Args:
            keys: name -> value, as read from a command line or file; text that is a number is read as a number. A
                LADConfig is returned as it is, None gives the defaults.
            prefix: what stands in front of each name where the user writes it, such as "algorithm.lad.".

        Raises:
            ValueError: naming each key as the user writes it, its value and what is allowed.
        """
        if isinstance(keys, LADConfig):
            return keys
        given = dict(keys or {})
        unknown = [f"{prefix}{name}={value!r}" for name, value in given.items() if name not in FIELD_NAMES]
        if unknown:
            allowed = ", ".join(f"{prefix}{name}" for name in FIELD_NAMES)
            raise ValueError(f"{', '.join(unknown)} is unknown to verl-lad; allowed: {allowed}")
        for name in NUMBERS:
            if isinstance(given.get(name), str):
                given[name] = _number(given[name])
        try:
            return cls(**given)
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from error

    def remarks(self, prefix: str, clip_keys: Sequence[str] = (), entropy_key: str | None = None) -> list[str]:
        """Return a warning for each setting of a trainer that has no place beside LAD.

        Args:
            prefix: as for `from_keys`.
            clip_keys: the trainer's keys for clipping that its user changed.
            entropy_key: "key=value" of the trainer's entropy bonus, if it is on.
        """
        texts = []
        if clip_keys:
            texts.append(f"{', '.join(clip_keys)}: LAD does not clip; no effect")
        if entropy_key:
            texts.append(
                f"{entropy_key}: LAD's target keeps the spread by itself; the bonus is added all the same and moves "
                "the optimum away from the target"
            )
        if not get_divergence(self.divergence, self.alpha).strictly_convex and self.constant != "group":
            texts.append(
                f"{prefix}divergence={self.divergence!r} is not strictly convex: without {prefix}partition='group' "
                "its minimiser is not unique"
            )
        return texts


FIELD_NAMES = tuple(field.name for field in fields(LADConfig))


def _number(text: str) -> float | str:
    """Return the number that the text writes, or the text itself."""
    try:
        return float(text)
    except ValueError:
        return text
