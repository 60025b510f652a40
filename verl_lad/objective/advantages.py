"""Group-relative outcome advantages, vectorised over the batch."""

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig

STD_EPSILON = 1e-6
"""Added to the standard deviation, as verl's grpo does."""


def _group_index(group_ids: Tensor | Sequence[Any], size: int, device: torch.device) -> tuple[Tensor, int]:
    """Group ids, of any hashable kind, as integers 0 .. number of groups - 1, and that number."""
    if isinstance(group_ids, Tensor):
        if group_ids.shape != (size,):
            raise ValueError(f"group_ids must have the shape of scores, ({size},), got {tuple(group_ids.shape)}")
        groups, index = torch.unique(group_ids, return_inverse=True)
        return index.to(device), groups.numel()
    if len(group_ids) != size:
        raise ValueError(f"group_ids must have one entry for each of the {size} scores, got {len(group_ids)}")
    # Objects can be hashed faster than numpy can sort them, and need not be comparable.
    number = {group: i for i, group in enumerate(dict.fromkeys(group_ids))}
    index = torch.zeros(size, dtype=torch.long)
    if size:  # torch.tensor would look at each element's type, which takes longer than all the rest
        index = torch.frombuffer(array("q", map(number.__getitem__, group_ids)), dtype=torch.long)
    return index.to(device), len(number)


@torch.no_grad()
def group_advantages(
    scores: Tensor,
    group_ids: Tensor | Sequence[Any],
    config: LADConfig | None = None,
    norm_by_std: bool = True,
    reference_log_ratio: Tensor | None = None,
) -> Tensor:
    """Advantages of whole responses, relative to the responses to the same prompt.

    anchor="old": GRPO's (s - mean) / (std + 1e-6), with Bessel's correction, over each group (arXiv 2402.03300);
    without the division if norm_by_std is False (arXiv 2503.20783). A group of one has mean 0 and standard deviation 1,
    as in verl, so that A is the score itself. A group of equal scores has A = 0 exactly. partition="group" subtracts
    eta log mean_group exp(A / eta) then, so that the target exp(A / eta) has mean one in the group.

    anchor="reference": the target pi_ref exp(s / eta) / Z, written relative to pi_old (README, "Anchoring"):
    A = s - eta K, centred in its group, never divided by the standard deviation, and always with partition="group".

    Args:
        scores: (B,) raw outcome scores s, floating point or integer.
        group_ids: (B,) equal for the responses to one prompt: a tensor, or an array or sequence of anything hashable.
        config: eta, partition and anchor are used; LADConfig() if None.
        norm_by_std: divide by the group's standard deviation; without effect for anchor="reference".
        reference_log_ratio: (B,) K = sum_t (log pi_old - log pi_ref), in nats; required for anchor="reference".

    Returns:
        (B,) advantages in the floating type of scores (float32 for integers), computed in float64.

    Raises:
        ValueError: on shapes that do not fit; if reference_log_ratio is missing for anchor="reference", or given for
            anchor="old".
    """
    config = config or LADConfig()
    if scores.dim() != 1:
        raise ValueError(f"scores must be (B,), got {tuple(scores.shape)}")
    anchored = config.anchor == "reference"
    if anchored != (reference_log_ratio is not None):
        needs = "requires reference_log_ratio" if anchored else "does not use reference_log_ratio"
        raise ValueError(f"anchor={config.anchor!r} {needs}, (B,) sums of log pi_old - log pi_ref")
    index, groups = _group_index(group_ids, scores.numel(), scores.device)
    dtype = scores.dtype if scores.is_floating_point() else torch.float32

    s = scores.double()
    if reference_log_ratio is not None:
        if reference_log_ratio.shape != scores.shape:
            raise ValueError(
                f"reference_log_ratio must have the shape of scores, {tuple(scores.shape)}, "
                f"got {tuple(reference_log_ratio.shape)}"
            )
        s = s - config.eta * reference_log_ratio.double()

    def total(x: Tensor) -> Tensor:
        """(groups,) sums of (B,) x over each group."""
        return x.new_zeros(groups).index_add_(0, index, x)

    def extreme(x: Tensor, reduce: str) -> Tensor:
        """(groups,) amax or amin of (B,) x over each group."""
        return x.new_zeros(groups).scatter_reduce_(0, index, x, reduce, include_self=False)

    def of_each(x: Tensor) -> Tensor:
        """(B,) values of the groups that the responses belong to."""
        return x.index_select(0, index)

    count = torch.bincount(index, minlength=groups).to(s.dtype)
    single = count == 1
    # Relative to the least of the group first: equal scores are exactly 0 then, and large ones lose no digits.
    A = s - of_each(extreme(s, "amin").masked_fill_(single, 0.0))
    A -= of_each((total(A) / count).masked_fill_(single, 0.0))
    if norm_by_std and not anchored:
        std = (total(A.square()) / (count - 1).clamp_(min=1)).sqrt_().masked_fill_(single, 1.0)
        A = A / of_each(std + STD_EPSILON)
    if anchored or config.partition == "group":
        u = A / config.eta
        peak = extreme(u, "amax")
        log_mean = peak + (total((u - of_each(peak)).exp()) / count).log()
        A = A - config.eta * of_each(log_mean)
    return A.to(dtype)
