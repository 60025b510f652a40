"""The launcher, in a process of its own: SkyRL's entrypoint sets multiprocessing's start method."""

import json
import os
import subprocess
import sys

from ..conftest import FRAMEWORKS

OVERRIDE = "trainer.override_entrypoint=verl_lad.adapters.skyrl.main_base"
COMMAND_LINES = [
    ["trainer.algorithm.lad.eta=-1"],
    ["trainer.algorithm.lad.eta=0.5", "trainer.logger=console"],
]
RUN = """
import json, sys, typing
import typing_extensions
if sys.version_info < (3, 12):
    typing.TypedDict = typing_extensions.TypedDict
from skyrl.train.utils import utils

def initialize_ray(cfg):
    from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry
    raise RuntimeError(f"before Ray: {PolicyLossRegistry.get('lad').__module__} {cfg.trainer.algorithm.lad}")

utils.initialize_ray = initialize_ray
from skyrl.train.entrypoints.main_base import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except Exception as error:
        print("ENDED", error)
"""


def test_skyrls_entrypoint_hands_over_and_bad_settings_end_before_ray_starts():
    command_lines = json.dumps([[OVERRIDE, *arguments] for arguments in COMMAND_LINES])
    done = subprocess.run(
        [sys.executable, "-c", RUN, command_lines],
        env={**os.environ, "PYTHONPATH": str(FRAMEWORKS)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    ended = [line.removeprefix("ENDED ") for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    assert len(ended) == 2, done.stderr
    assert ended[0].startswith("trainer.algorithm.lad.eta=-1 is not allowed")
    assert ended[1].startswith("before Ray: verl_lad.adapters.skyrl.policy_loss LADConfig(eta=0.5")
