"""Run by test_two_processes.py under torch.distributed.run: an anchored training, whose record goes to DIR/<rank>.pt.

Each process has 6 responses of groups of 4: one group lies in both. DIR's name says whether the loss is fused.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from adapters.trl.tiny_trainer import RecordingTrainer, make_trainer, parameters

if __name__ == "__main__":
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    own = directory / f"rank-{os.environ['RANK']}"  # where each saves the model that it loads its reference from
    trainer = make_trainer(
        own, RecordingTrainer, lad_anchor="reference", lad_eta=0.2, per_device_train_batch_size=6,
        num_iterations=2, max_steps=4, lad_fused=directory.name.startswith("fused"),
    )  # fmt: skip
    trainer.train()
    record = {
        "produced": trainer.produced,
        "micro_batches": trainer.micro_batches,
        "parameters": parameters(trainer.model),
    }
    torch.save(record, directory / f"{trainer.accelerator.process_index}.pt")
