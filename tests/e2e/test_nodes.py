"""A Ray cluster of three nodes on one machine: one has no verl-lad, one has another version of it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import verl_lad
from verl_lad import __version__

PACKAGE = Path(verl_lad.__file__).parent
TIME_LIMIT = 300

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(TIME_LIMIT + 60)]

# By hand, as on three machines: each `ray start` in the environment of its own node.
CLUSTER = """
set -eu
export RAY_ADDRESS=127.0.0.1:$PORT
"$PYTHON" -m ray.scripts.scripts start --head --node-ip-address=127.0.0.1 --port="$PORT" --num-cpus=4 --num-gpus=1 \\
    --include-dashboard=false --disable-usage-stats --temp-dir="$TMPDIR/head"
for environment in "$WITHOUT" "$NEWER"; do
    env -u VERL_USE_EXTERNAL_MODULES -u VERL_PLATFORM PYTHONPATH="$environment" "$BARE_PYTHON" \\
        -m ray.scripts.scripts start --address=127.0.0.1:"$PORT" --num-cpus=4 --num-gpus=1 \\
        --disable-usage-stats
done
"$PYTHON" -m verl_lad.cli.main doctor --ray "127.0.0.1:$PORT" || true
"$PYTHON" -m verl.trainer.main_ppo algorithm.policy_loss=lad algorithm.adv_estimator=lad \\
    trainer.nnodes=2 trainer.n_gpus_per_node=1 trainer.device=cpu data.train_batch_size=8 \\
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 actor_rollout_ref.actor.ppo_mini_batch_size=8 \\
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4 \\
    ray_kwargs.ray_init.num_cpus=null
"""


BARE_PYTHON = Path(sys.base_prefix) / "bin" / "python3"
"""Without any packages."""


def environment(directory: Path) -> Path:
    """For PYTHONPATH: everything of this environment but verl-lad."""
    directory.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "verl_lad" not in path.name:
            (directory / path.name).symlink_to(path)
    return directory


def newer_verl_lad(directory: Path) -> Path:
    """The same with a verl-lad that says it is 9.9.9."""
    environment(directory)
    (metadata,) = Path(sysconfig.get_path("purelib")).glob("verl_lad-*.dist-info")
    (directory / metadata.name).symlink_to(metadata)
    copy = shutil.copytree(PACKAGE, directory / "verl_lad")
    (copy / "version.py").write_text('__version__ = "9.9.9"\n')
    return directory


def test_nodes_without_the_plugin_or_with_another_version_are_named_before_any_worker_starts(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as stream:
        subprocess.run(
            [
                *(sys.executable, "-m", "verl_lad.cpu.run", "--time-limit", str(TIME_LIMIT)),
                *("--", "bash", "-c", CLUSTER),
            ],
            env={
                **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
                "PYTHON": sys.executable,
                "BARE_PYTHON": str(BARE_PYTHON),
                "WITHOUT": str(environment(tmp_path / "without")),
                "NEWER": str(newer_verl_lad(tmp_path / "newer")),
                "PORT": "26379",
                # else the head would take the token that some earlier ray.init may have left, and the node would not
                "RAY_AUTH_MODE": "disabled",
            },
            cwd=tmp_path,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(errors="replace")
    assert "policy loss 'lad' is not on every node of the Ray cluster that has accelerators" in text, text[-4000:]
    said = text.replace(str(BARE_PYTHON.resolve()), str(BARE_PYTHON))
    assert f"finds no verl-lad in {BARE_PYTHON}" in said
    assert re.search(
        rf"verl-lad 9\.9\.9 in {re.escape(str(BARE_PYTHON))} on \S+, and {re.escape(__version__)} here", said
    )
    assert "verl-lad doctor --ray auto" in text
    assert "Unsupported loss mode" not in text
    assert "vLLMHttpServer" not in text, "a server was started"
    doctor = text[: text.index("LAD is not ready")]
    assert doctor.count("BROKEN") == 2
    assert len(re.findall(r"^ok +ray node ", doctor, re.MULTILINE)) == 1
