"""TRL adapter: LAD in a GRPOTrainer."""

from verl_lad.adapters.trl.trainer import LADTrainer, LADTrainerConfig

__all__ = ["LADTrainer", "LADTrainerConfig"]
