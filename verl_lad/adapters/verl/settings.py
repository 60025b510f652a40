"""The dataclasses that verl makes of the two sections that hold our keys."""

from dataclasses import dataclass, field
from typing import Any

from verl.trainer.config import AlgoConfig
from verl.workers.config import PolicyLossConfig

from verl_lad.adapters.verl.presets import read_settings
from verl_lad.objective import LADConfig


@dataclass
class LADPolicyLossConfig(PolicyLossConfig):
    """verl's PolicyLossConfig with the settings of LAD.

    Attributes:
        lad: the section algorithm.lad as a mapping, or None for the defaults. A LADConfig after construction.
    """

    _mutable_fields = PolicyLossConfig._mutable_fields | {"lad"}

    lad: Any = field(default_factory=LADConfig)

    def __post_init__(self) -> None:
        self.lad = read_settings(self.lad)


@dataclass
class LADAlgoConfig(AlgoConfig):
    """verl's AlgoConfig with our two keys.

    Attributes:
        policy_loss: name of the registered policy loss.
        lad: the section algorithm.lad as a mapping, or None for the defaults. A LADConfig after construction.
    """

    _mutable_fields = AlgoConfig._mutable_fields | {"lad"}

    policy_loss: str = "vanilla"
    lad: Any = field(default_factory=LADConfig)

    def __post_init__(self) -> None:
        self.lad = read_settings(self.lad)
