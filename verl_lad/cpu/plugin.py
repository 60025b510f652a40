"""Prepare this process for verl on a CPU. VERL_USE_EXTERNAL_MODULES names this module; `import verl` imports it.

An error here ends the process: a CPU run that was asked for must not start half prepared.
"""

import os

from verl_lad.cpu.platform import PLATFORM_NAME

if os.environ.get("VERL_PLATFORM") != PLATFORM_NAME:
    raise RuntimeError(
        f"verl_lad.cpu.plugin was loaded with VERL_PLATFORM={os.environ.get('VERL_PLATFORM')!r}; allowed: 'cpu'. "
        "Start verl by `python -m verl_lad.cpu.run -- python -m verl.trainer.main_ppo ...`, which sets it."
    )

from verl_lad.cpu import process_group, vllm_rollout

process_group.install()
vllm_rollout.install()
