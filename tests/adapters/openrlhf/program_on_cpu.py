"""`python program_on_cpu.py FLAGS`: our launcher, on a machine without a GPU.

Ray is started here, with slots that count as GPUs and with the stand-ins in every worker, so OpenRLHF's program finds
it running.
"""

import runpy

import ray

from adapters.openrlhf.without_gpu import stand_in

if __name__ == "__main__":
    stand_in()
    from openrlhf.trainer.ray import vllm_engine

    from adapters.openrlhf.rollout import CPURolloutRayActor

    vllm_engine.RolloutRayActor = ray.remote(CPURolloutRayActor)
    hook = {"worker_process_setup_hook": "adapters.openrlhf.without_gpu.stand_in"}
    ray.init(address="local", num_cpus=8, num_gpus=3, include_dashboard=False, runtime_env=hook)
    runpy.run_module("verl_lad.adapters.openrlhf.train_ppo_ray", run_name="__main__", alter_sys=True)
