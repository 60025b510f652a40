"""Patches of released trainers: for those without a hook. What `verl-lad patch` does; knows no trainer.

diff.py      a unified diff, applied exactly or not at all
library.py   the patches that this package carries, and what to do with one in an installed package
files/       the repository's patches/, by a link; the wheel carries its *.patch
"""

from verl_lad.patches.diff import Mismatch
from verl_lad.patches.library import Installation, Patch, Refused, carried_patches, find_installation

__all__ = ["Installation", "Mismatch", "Patch", "Refused", "carried_patches", "find_installation"]
