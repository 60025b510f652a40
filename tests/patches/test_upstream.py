"""The patch for verl's own repository, applied to a copy of the installed verl: its own test, and our gradients."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verl

PATCH = Path(__file__).parents[2] / "patches/upstream/verl-0.9.1-lad.patch"
COMPARE = """
import itertools, torch, verl
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn
from verl.workers.config import FSDPActorConfig, PolicyLossConfig
from verl_lad import LADConfig, lad_loss

assert get_policy_loss_fn("lad").__module__ == "verl.trainer.ppo.core_algos"
generator = torch.Generator().manual_seed(1)
mask = torch.arange(7) < torch.tensor([7, 1, 4, 3, 5])[:, None]
old = -torch.rand(5, 7, generator=generator)
new = old + torch.randn(5, 7, generator=generator)
for divergence, ratio, eta in itertools.product(("js", "hellinger", "kl"), ("token", "sequence"), (0.125, 0.25, 2.0)):
    advantages = torch.randn(5, 1, generator=generator).expand(5, 7)
    agg_mode = {"token": "token-mean", "sequence": "seq-mean-token-sum"}[ratio]
    keys = PolicyLossConfig(loss_mode="lad", lad_eta=eta, lad_divergence=divergence, lad_ratio=ratio)
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1, policy_loss=keys)
    theirs = new.clone().requires_grad_()
    loss, _ = get_policy_loss_fn("lad")(old, theirs, advantages, mask, agg_mode, config)
    loss.backward()
    ours = new.clone().requires_grad_()
    matrix, _ = lad_loss(ours, old, advantages, mask, LADConfig(eta=eta, divergence=divergence, ratio=ratio))
    expected = agg_loss(matrix, mask, agg_mode)
    expected.backward()
    torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert theirs.grad.count_nonzero() == mask.sum()
print("equal")
"""


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    if verl.__version__ != "0.9.1":
        pytest.skip(f"made for verl 0.9.1; {verl.__version__} is installed")
    directory = tmp_path_factory.mktemp("upstream")
    shutil.copytree(Path(verl.__file__).parent, directory / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)}
    subprocess.run(["git", "apply", str(PATCH)], cwd=directory, check=True, env=environment)
    return directory


def run(directory, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "VERL_USE_EXTERNAL_MODULES"}
    root = str(Path(__file__).parents[2])
    environment |= {"VERL_USE_EXTERNAL_PLUGINS": "none", "PYTHONPATH": os.pathsep.join([str(directory), root])}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_its_own_test_passes(patched):
    test = "tests/trainer/ppo/test_lad_loss_on_cpu.py"
    done = run(patched, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "14 passed" in done.stdout


def test_its_values_and_gradients_are_ours(patched):
    done = run(patched, "-c", COMPARE)
    assert done.stdout.split() == ["equal"], done.stderr[-3000:]


def test_verl_composes_its_keys(patched):
    lad = ["actor_rollout_ref.actor.policy_loss.loss_mode=lad", "actor_rollout_ref.actor.policy_loss.lad_eta=0.5"]
    done = run(patched, "-m", "verl.trainer.main_ppo", *lad, "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert {"loss_mode: lad", "lad_eta: 0.5", "lad_divergence: js", "lad_ratio: token"} <= set(lines)


def test_it_imports_nothing_of_ours_and_changes_no_other_default():
    text = PATCH.read_text()
    assert "verl_lad" not in text
    removed = [line for line in text.splitlines() if line.startswith("-") and not line.startswith("--- ")]
    assert len(removed) == 1, "the list of names in a docstring"
