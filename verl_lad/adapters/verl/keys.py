"""The section algorithm.lad: from keys to the settings of the objective.

Imports no verl at its head, and neither does any other part that the plugin takes names from: whichever of our modules
a process imports first, `import verl`, which loads the plugin, finds them complete.
"""

from collections.abc import Mapping
from typing import Any

from verl_lad.objective import LADConfig

SECTION = "algorithm.lad"


def lad_config(keys: Mapping[str, Any] | LADConfig | None) -> LADConfig:
    """Make the settings of the objective from the section algorithm.lad.

    Args:
        keys: the section, resolved; None if it is absent, which gives the defaults.

    Returns:
        The checked settings.

    Raises:
        ValueError: naming the full key, its value and what is allowed.
    """
    return LADConfig.from_keys(keys, f"{SECTION}.")
