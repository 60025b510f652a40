#!/usr/bin/env bash
# verl's trainer on one GPU, with LAD or a baseline: Ray, FSDP2 over NCCL, vLLM in bfloat16 with sleep mode, weight sync.
# The model and the task `digits` are those of recipes/study. Log, verl's metrics and validation dumps: OUTPUT_DIR.
#
#   ALGO=lad bash tests/gpu/train.sh
#   ALGO=grpo STEPS=5 bash tests/gpu/train.sh trainer.test_freq=5
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RECIPES=${HERE}/../../recipes

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                               # lad, lad_anchored, grpo
ETA=${ETA:-}                                    # lad: 0.25; lad_anchored: 0.125
SEED=${SEED:-0}
STEPS=${STEPS:-20}
OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-outputs/gpu}")
ASSETS_DIR=$(realpath -m "${ASSETS_DIR:-${OUTPUT_DIR}/assets-seed${SEED}}")
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8}         # prompts a step
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-2}           # prompts an update
ROLLOUT_N=${ROLLOUT_N:-16}                      # responses a prompt
VAL_SAMPLES=${VAL_SAMPLES:-16}
LR=${LR:-2e-4}
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.3}  # of vLLM
FREE_CACHE=${FREE_CACHE:-True}                  # vLLM's sleep mode
TIME_LIMIT=${TIME_LIMIT:-240}                   # seconds
PYTHON=${PYTHON:-python3}
#######################################################################

MICRO_BATCH_SIZE=$((MINI_BATCH_SIZE * ROLLOUT_N))
RUN_DIR=${OUTPUT_DIR}/runs/${ALGO}
# shellcheck source=algorithms.sh
source "${RECIPES}/algorithms.sh"
rm -rf "${RUN_DIR}"
mkdir -p "${RUN_DIR}"
"${PYTHON}" "${RECIPES}/study/bases.py" "${ASSETS_DIR}" --task digits --seed "${SEED}"

DATA=(
    data.train_files="${ASSETS_DIR}/train.parquet"
    data.val_files="${ASSETS_DIR}/val.parquet"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length=16
    data.max_response_length=8
    data.dataloader_num_workers=0
    data.seed="${SEED}"
    reward.custom_reward_function.path="${RECIPES}/study/tasks.py"
    reward.num_workers=1
)

MODEL=(
    actor_rollout_ref.model.path="${ASSETS_DIR}/model"
    actor_rollout_ref.model.use_remove_padding=False  # True needs flash-attn in the trainer
    actor_rollout_ref.model.enable_gradient_checkpointing=False
    +actor_rollout_ref.model.override_config.attn_implementation=sdpa
)

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.actor.use_kl_loss=False
    actor_rollout_ref.actor.use_torch_compile=False
    actor_rollout_ref.actor.fsdp_config.use_torch_compile=False
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.seed="${SEED}"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.dtype=bfloat16
    actor_rollout_ref.rollout.enforce_eager=True
    actor_rollout_ref.rollout.free_cache_engine="${FREE_CACHE}"
    +actor_rollout_ref.rollout.enable_sleep_mode="${FREE_CACHE}"
    actor_rollout_ref.rollout.gpu_memory_utilization="${GPU_MEMORY_UTILIZATION}"
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.rollout.max_model_len=64
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.max_num_batched_tokens=4096
    actor_rollout_ref.rollout.agent.num_workers=4
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64
    actor_rollout_ref.rollout.val_kwargs.n="${VAL_SAMPLES}"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
)

TRAINER=(
    trainer.nnodes=1
    trainer.n_gpus_per_node=1
    trainer.logger='["console","file"]'
    trainer.project_name=verl_lad_gpu
    trainer.experiment_name="${ALGO}"
    trainer.total_training_steps="${STEPS}"
    trainer.total_epochs=1000
    trainer.val_before_train=True
    trainer.test_freq="${STEPS}"
    trainer.validation_data_dir="${RUN_DIR}/validation"
    trainer.save_freq=-1
    trainer.resume_mode=disable
    trainer.default_local_dir="${RUN_DIR}/checkpoints"
    trainer.v1.sampler.custom_sampler.path=pkg://verl_lad.cpu.replay_buffer
    trainer.v1.sampler.custom_sampler.name=FastReplayBuffer
    transfer_queue.backend.SimpleStorage.num_data_storage_units=1
    ray_kwargs.ray_init.num_cpus=16
    +ray_kwargs.ray_init.include_dashboard=False
    hydra.run.dir="${RUN_DIR}/hydra"
)

COMMAND=(
    "${PYTHON}" -m verl.trainer.main_ppo
    "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${ALGORITHM[@]}" "${TRAINER[@]}" "$@"
)
if [[ " $* " == *" --cfg "* ]]; then
    exec "${COMMAND[@]}"
fi

export VERL_FILE_LOGGER_PATH=${RUN_DIR}/metrics.jsonl
rm -f /tmp/rl-colocate-zmq-*.sock  # a run that was killed leaves its socket, on which the next one would fail
status=0
"${PYTHON}" "${HERE}/limited.py" "${TIME_LIMIT}" "${COMMAND[@]}" > "${RUN_DIR}/log.txt" 2>&1 || status=$?
if [[ ${status} -ne 0 ]]; then
    echo "ALGO=${ALGO} ended with status ${status} (124: the time limit); the end of ${RUN_DIR}/log.txt:" >&2
    tail -n 40 "${RUN_DIR}/log.txt" | cut -c1-300 >&2
fi
exit "${status}"
