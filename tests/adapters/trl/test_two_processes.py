"""Data parallel, with a group that lies in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl
from torch.nn.utils.rnn import pad_sequence

import verl_lad
from verl_lad import LADConfig, group_advantages, lad_loss_reference

from .tiny_trainer import make_model, parameters, train_by_hand

CONFIG = LADConfig(eta=0.2, anchor="reference")
PYTHONPATH = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (verl_lad, trl))


@pytest.fixture(scope="module", params=["unfused", "fused"])
def directory(request, tmp_path_factory):
    return tmp_path_factory.mktemp(request.param)


@pytest.fixture(scope="module")
def ranks(directory):
    """Train in two processes; return what each produced, its micro-batches and its last parameters."""
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            Path(__file__).with_name("two_processes.py"),
            directory,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_groups_across_processes_have_the_advantages_of_whole_groups(ranks):
    steps = list(zip(*(rank["produced"] for rank in ranks), strict=True))
    assert len(steps) == 2
    for batches in steps:
        scores, log_ratio, ours = (
            torch.cat([batch[key] for batch in batches]) for key in ("scores", "log_ratio", "advantages")
        )
        assert len(scores) == 12
        wanted = group_advantages(scores - CONFIG.eta * log_ratio, torch.arange(12) // 4, CONFIG)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    assert log_ratio.abs().max() > 0.1


def test_two_processes_take_the_steps_of_one_with_both_batches(directory, ranks):
    one, other = (rank["parameters"] for rank in ranks)
    assert torch.equal(one, other)

    def both(batches):
        columns = {
            key: pad_sequence([row for batch in batches for row in batch[key]], batch_first=True)
            for key in ("completion_ids", "completion_mask", "old_per_token_logps")
        }
        rows = {
            key: torch.cat([batch[key] for batch in batches]) for key in ("prompt_ids", "prompt_mask", "advantages")
        }
        return columns | rows

    def loss(log_prob, old, batch):
        mask = batch["completion_mask"]
        advantages = batch["advantages"][:, None].expand_as(mask)
        return lad_loss_reference(log_prob, old, advantages, mask, CONFIG).sum() / mask.sum()

    start, model = make_model(directory), make_model(directory)
    train_by_hand(model, map(both, zip(*(rank["micro_batches"] for rank in ranks), strict=True)), loss, 0.3)
    torch.testing.assert_close(one, parameters(model), rtol=1e-4, atol=1e-5)
    assert (one - parameters(start)).abs().max() > 0.05
