"""SkyRL's main_base, skyrl/train/entrypoints/main_base.py, with LAD.

python -m verl_lad.adapters.skyrl.main_base, or trainer.override_entrypoint=verl_lad.adapters.skyrl.main_base.
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
        """As the parent's, of which SkyRL calls it by keyword."""
        return LADTrainer(**parts)


@ray.remote(num_cpus=1)
def skyrl_entrypoint(cfg: LADSkyRLTrainConfig) -> None:
    """The training loop, in a Ray task as SkyRL runs it."""
    LADExp(cfg).run()


def main() -> None:
    """Checks the command line, before Ray starts, and trains."""
    cfg = LADSkyRLTrainConfig.from_cli_overrides([arg for arg in sys.argv[1:] if not arg.startswith(OVERRIDE)])
    register()
    validate_cfg(cfg)
    initialize_ray(cfg)
    ray.get(skyrl_entrypoint.remote(cfg))


if __name__ == "__main__":
    main()
