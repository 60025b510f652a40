"""TRL adapter: a GRPOTrainer with LAD's policy loss.

config.py    LADTrainerConfig: GRPOConfig with LAD's settings; refuses what contradicts them
trainer.py   LADTrainer: GRPOTrainer with LAD's loss and advantages
fused.py     the loss inside the model's forward pass, for lad_fused=True
"""

from verl_lad.adapters.trl.config import LADTrainerConfig
from verl_lad.adapters.trl.trainer import LADTrainer

__all__ = ["LADTrainer", "LADTrainerConfig"]
