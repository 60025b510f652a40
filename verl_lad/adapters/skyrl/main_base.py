"""SkyRL's main_base with LAD.

Start it by `python -m verl_lad.adapters.skyrl.main_base`, or by SkyRL's own main_base with
trainer.override_entrypoint=verl_lad.adapters.skyrl.main_base.
"""

import sys
from typing import Any

import ray
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.utils import validate_cfg
from skyrl.train.utils.utils import initialize_ray

from verl_lad.adapters.skyrl.config import LADSkyRLTrainConfig
from verl_lad.adapters.skyrl.policy_loss import register
from verl_lad.adapters.skyrl.trainer import LADTrainer

OVERRIDE = "trainer.override_entrypoint="


class LADExp(BasePPOExp):
    """SkyRL's experiment with LADTrainer."""

    def get_trainer(self, **parts: Any) -> LADTrainer:
        """Make the trainer; SkyRL calls this with keywords."""
        return LADTrainer(**parts)


@ray.remote(num_cpus=1)
def skyrl_entrypoint(cfg: LADSkyRLTrainConfig) -> None:
    """Run the training loop, in a Ray task as SkyRL does."""
    LADExp(cfg).run()


def main() -> None:
    """Check the command line before Ray starts, and train."""
    cfg = LADSkyRLTrainConfig.from_cli_overrides([arg for arg in sys.argv[1:] if not arg.startswith(OVERRIDE)])
    register()
    validate_cfg(cfg)
    initialize_ray(cfg)
    ray.get(skyrl_entrypoint.remote(cfg))


if __name__ == "__main__":
    main()
