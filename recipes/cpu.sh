# shellcheck shell=bash disable=SC2034  # sourced by the recipes that run on CPU, which use CPU
# Set the array CPU to what verl and vLLM need without a GPU, beside `python -m verl_lad.cpu.run`. N_GPUS: FSDP ranks.

FP32="{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
CPU=(
    trainer.device=cpu
    +ray_kwargs.ray_init.num_gpus="${N_GPUS}"
    ray_kwargs.ray_init.num_cpus=24
    +ray_kwargs.ray_init.include_dashboard=False
    transfer_queue.backend.SimpleStorage.num_data_storage_units=1
    trainer.v1.sampler.custom_sampler.path=pkg://verl_lad.cpu.replay_buffer
    trainer.v1.sampler.custom_sampler.name=FastReplayBuffer
    data.dataloader_num_workers=0
    reward.num_workers=1
    actor_rollout_ref.model.use_remove_padding=False
    actor_rollout_ref.model.enable_gradient_checkpointing=False
    ++actor_rollout_ref.model.override_config.attn_implementation=sdpa
    actor_rollout_ref.actor.use_torch_compile=False
    actor_rollout_ref.actor.fsdp_config.use_torch_compile=False
    +actor_rollout_ref.actor.fsdp_config.mixed_precision="${FP32}"
    +actor_rollout_ref.ref.fsdp_config.mixed_precision="${FP32}"
    actor_rollout_ref.rollout.dtype=float32
    actor_rollout_ref.rollout.agent.num_workers=2
    actor_rollout_ref.rollout.enforce_eager=True
    actor_rollout_ref.rollout.free_cache_engine=False
    +actor_rollout_ref.rollout.enable_sleep_mode=False
    +actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=verl_lad.cpu.worker_extension.CPUWorkerExtension
)
