"""What `verl-lad patch` prints. The work is the package `verl_lad.patches`'s."""

import sys
from pathlib import Path

from verl_lad.patches import Installation, Patch, Refused, carried_patches, find_installation


def run(action: str, name: str | None, target: Path | None) -> int:
    """Lists, checks, applies or reverts patches.

    Args:
        action: list, check, apply or revert.
        name: of one patch; None for each whose package is there in the version that it is for.
        target: directory that holds the package; None for that which Python would import.

    Returns:
        Exit status: 0; 1 if something was refused or could not be written; 2 if there is no such patch, or none fits.
    """
    patches = [patch for patch in carried_patches() if name in (None, patch.name)]
    if not patches:
        print(f"verl-lad patch: no patch {name!r}; there are: {_names(list(carried_patches()))}", file=sys.stderr)
        return 2
    if action == "list":
        for patch in patches:
            print(f"{patch.name}: {patch.title}\n    here: {_state(patch, target)}")
        return 0
    chosen: list[tuple[Patch, Installation]] = []
    reasons = []
    for patch in patches:
        try:
            installation = find_installation(patch, target)
        except Refused as error:
            reasons.append(f"{patch.name}: {error}")
            continue
        if name is None and installation.version != patch.version:
            reasons.append(
                f"{patch.name}: {patch.distribution} {installation.version or 'of unknown version'} is there"
            )
            continue
        chosen.append((patch, installation))
    if not chosen:
        print("verl-lad patch: no patch for what is installed", *reasons, sep="\n    ", file=sys.stderr)
        return 2
    refused = [not _act(action, patch, installation) for patch, installation in chosen]
    return 1 if any(refused) else 0


def _names(patches: list[Patch]) -> str:
    return ", ".join(patch.name for patch in patches)


def _state(patch: Patch, target: Path | None) -> str:
    try:
        installation = find_installation(patch, target)
        return f"{installation.state(patch)}, {installation.root}"
    except Refused as error:
        return f"no; {error}"


def _act(action: str, patch: Patch, installation: Installation) -> bool:
    try:
        if action == "check":
            unsure = "" if installation.version else " (nothing says its version; the files fit)"
            print(f"{patch.name}: {installation.state(patch)} in {installation.root}{unsure}")
            return True
        changed = installation.apply(patch) if action == "apply" else installation.revert(patch)
    except (Refused, OSError) as error:
        print(f"verl-lad patch: refused, nothing changed: {error}", file=sys.stderr)
        return False
    done = {"apply": "applied", "revert": "not applied"}[action]
    print(f"{patch.name}: {done if changed else f'{done} already'} in {installation.root}")
    for path in changed:
        print(f"    {path}")
    return True
