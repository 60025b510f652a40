"""The settings of the objective."""

from dataclasses import dataclass, fields

from verl_lad.objective.divergences import ALPHA_RANGE, get_divergence

RATIOS = ("token", "sequence", "geometric")
PARTITIONS = ("none", "group")
ANCHORS = ("old", "reference")
MIN_ETA, MAX_ETA = 1e-6, 1e6
"""Range of eta: A / eta and its products with rho stay within float32."""
MIN_EXPONENT, MAX_EXPONENT = 1e-3, 21.0
"""Range of max_log_ratio and max_log_weight: exp of four times it, the largest formed, still fits float32."""


@dataclass(frozen=True)
class LADConfig:
    """Settings of LAD. Everything is checked on construction.

    Attributes:
        eta: temperature eta > 0 of the target pi_old exp(A / eta) / Z. The paper's main math setting is 1/eta = 4.
        divergence: js (the paper's choice), hellinger (hd), tv, kl, rkl, jeffreys (jf), alpha, or a registered name.
        alpha: order of divergence="alpha"; unused otherwise.
        ratio: the level of the log-ratio l of a response y. token: l_t at each token; sequence: sum_t l_t (the paper's
            equation; belongs to loss_agg_mode=seq-mean-token-sum); geometric: mean_t l_t (as GSPO; belongs to
            seq-mean-token-mean).
        partition: none: A as it comes; group: A <- A - eta log mean_group exp(A / eta), so that the group's target has
            mass one. `divergence="tv"` needs it.
        anchor: old: the target is relative to pi_old, as in the paper; reference: relative to the fixed reference
            policy, so that the target stands still. It implies un-normalised advantages and partition="group".
        max_log_ratio: beyond it rho = exp(l) grows no further; l - u, and with it the force towards the target, stays.
        max_log_weight: limit of u = A / eta where exp(u) or exp(-u) itself is formed (hellinger, rkl, jeffreys, alpha).
        compile: evaluate loss, gradient and diagnostics in one kernel made by torch.compile, at the first batch: the
            same numbers to rounding, in less memory, and in less time where a batch has many tokens.

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
    compile: bool = False

    def __post_init__(self) -> None:
        for name, low, high, requirement in (
            ("eta", MIN_ETA, MAX_ETA, f"a finite number greater than 0, from {MIN_ETA:g} to {MAX_ETA:g}"),
            ("alpha", *ALPHA_RANGE, f"a finite number from {ALPHA_RANGE[0]:g} to {ALPHA_RANGE[1]:g}"),
            ("max_log_ratio", MIN_EXPONENT, MAX_EXPONENT, f"a finite number from {MIN_EXPONENT:g} to {MAX_EXPONENT:g}"),
            (
                "max_log_weight",
                MIN_EXPONENT,
                MAX_EXPONENT,
                f"a finite number from {MIN_EXPONENT:g} to {MAX_EXPONENT:g}",
            ),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name}={value!r} is not allowed: {requirement}")
        get_divergence(self.divergence, self.alpha)
        for name, allowed in (("ratio", RATIOS), ("partition", PARTITIONS), ("anchor", ANCHORS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: one of {', '.join(allowed)}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile={self.compile!r} is not allowed: True or False")


FIELD_NAMES = tuple(field.name for field in fields(LADConfig))
