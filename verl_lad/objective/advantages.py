"""Group-relative outcome advantages, vectorised over the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.partition import Groups, group_constant

STD_EPSILON = 1e-6
"""Added to the standard deviation, as verl's grpo does."""


def group_rows(group_ids: Tensor | Sequence[Any], size: int, device: torch.device) -> Groups:
    """Assign a number to each group, by the values of the ids.

    Args:
        group_ids: (B,) tensor, or a sequence of anything that is hashed by its value; 0-dim tensors count as numbers.
        size: B.
        device: of the result.

    Raises:
        ValueError: on another number of ids, on NaN, and on an id that has no hash of its value.
    """
    if isinstance(group_ids, Tensor):
        if group_ids.shape != (size,):
            raise ValueError(f"group_ids must have the shape of scores, ({size},), got {tuple(group_ids.shape)}")
        group_ids = group_ids.tolist()
    if len(group_ids) != size:
        raise ValueError(f"group_ids must have one entry for each of the {size} scores, got {len(group_ids)}")
    number: dict[Any, int] = {}
    index = [number.setdefault(_value(group, row), len(number)) for row, group in enumerate(group_ids)]
    return Groups(torch.tensor(index, dtype=torch.long).to(device), len(number))


def _value(group: Any, row: int) -> Any:
    """Return an object that is equal, and hashed alike, for equal ids."""
    if isinstance(group, tuple):
        return tuple(_value(part, row) for part in group)
    if isinstance(group, Tensor) and group.dim() == 0:
        group = group.item()
    if type(group).__hash__ in (None, object.__hash__, Tensor.__hash__):
        raise ValueError(
            f"group_ids[{row}]={group!r} is not allowed: a {type(group).__name__} is not compared by its value; "
            "allowed: numbers, strings, and tuples of them"
        )
    if group != group:
        raise ValueError(f"group_ids[{row}]={group!r} is not allowed: NaN is equal to no other id")
    return group


@torch.no_grad()
def group_advantages(
    scores: Tensor,
    group_ids: Tensor | Sequence[Any],
    config: LADConfig | None = None,
    norm_by_std: bool = True,
) -> Tensor:
    """Compute the advantages of whole responses, relative to the responses to the same prompt.

    anchor="old": GRPO's (s - mean) / (std + 1e-6), with Bessel's correction, over each group (arXiv 2402.03300);
    without the division if norm_by_std is False (arXiv 2503.20783). A group of one has mean 0 and standard deviation 1,
    as in verl, so that A is the score itself. A group of equal scores has A = 0 exactly.

    anchor="reference": the target pi_ref exp(s / eta) / Z, written relative to pi_old. The scores are s - eta K, with
    K = sum_t (log pi_old - log pi_ref) in nats, and are never divided by the standard deviation.

    config.constant then shifts each group: see `LADConfig.partition`.

    Args:
        scores: (B,) outcome scores, floating point or integer: s, or s - eta K for anchor="reference".
        group_ids: (B,) equal for the responses to one prompt: a tensor, or an array or sequence of anything hashable.
        config: eta, partition and anchor are used, and for "balanced" the divergence; LADConfig() if None.
        norm_by_std: divide by the group's standard deviation; without effect for anchor="reference".

    Returns:
        (B,) advantages in the floating type of scores (float32 for integers), computed in float64.

    Raises:
        ValueError: on shapes that do not fit, and on group ids that cannot be compared.
    """
    config = config or LADConfig()
    if scores.dim() != 1:
        raise ValueError(f"scores must be (B,), got {tuple(scores.shape)}")
    groups = group_rows(group_ids, scores.numel(), scores.device)
    dtype = scores.dtype if scores.is_floating_point() else torch.float32

    s = scores.double()
    single = groups.count == 1
    # Relative to the least of the group first: equal scores are exactly 0 then, and large ones lose no digits.
    A = s - groups.spread(groups.extreme(s, "amin").masked_fill_(single, 0.0))
    A = A - groups.spread(groups.mean(A).masked_fill_(single, 0.0))
    if norm_by_std and config.anchor == "old":
        variance = groups.sum(A.square()) / (groups.count - 1).clamp_(min=1)
        A = A / groups.spread(variance.sqrt().masked_fill_(single, 1.0) + STD_EPSILON)
    if config.constant != "none":
        A = A - config.eta * groups.spread(group_constant(A / config.eta, groups, config))
    return A.to(dtype)
