#!/usr/bin/env bash
# Qwen2.5-0.5B-Instruct on GSM8K, with LAD or one of its baselines: FSDP2 + vLLM on one GPU of 24 GB. The reward is verl's own.
# The size is that of verl's example run_cispo_qwen2_5_0_5b_gsm8k.sh, three epochs; the memory is estimated for 24 GB.
# Composed for every ALGO, and scaled down for a CPU in `make long` (recipes/on_cpu.sh); not yet run on a GPU.
#
#   bash recipes/data/prepare_gsm8k.sh                      once
#   bash recipes/run_qwen2.5_0.5b_gsm8k.sh                  LAD as in the paper
#   ALGO=grpo bash recipes/run_qwen2.5_0.5b_gsm8k.sh        a baseline
#   bash recipes/run_qwen2.5_0.5b_gsm8k.sh algorithm.lad.eta=0.5 trainer.total_training_steps=20
#
# Sources of the values: [verl] its default or that example, [ours] this project's.
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                               # lad lad_anchored grpo grpo_kl kl_cov clip_cov entropy gspo dro
# ETA, DIVERGENCE, RATIO, ANCHOR and the baselines' own settings, each with its source: recipes/algorithms.sh
SEED=${SEED:-1}
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}  # [verl] hub name, or a directory
DATA_DIR=$(realpath -m "${DATA_DIR:-data/gsm8k}")
RUN_DIR=$(realpath -m "${RUN_DIR:-outputs/run_qwen2.5_0.5b_gsm8k/${ALGO}-seed${SEED}}")  # all that a run writes; a second start resumes

N_GPUS=${N_GPUS:-1}
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.4}  # of vLLM [ours: beside 8 GB of weights, gradients and Adam's moments]
OFFLOAD=${OFFLOAD:-False}                       # parameters and optimizer to CPU memory; True below 24 GB
ATTENTION=${ATTENTION:-sdpa}                    # [ours: needs no further package] flash_attention_2 with flash-attn

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-256}       # prompts a step [verl]
ROLLOUT_N=${ROLLOUT_N:-5}                       # responses a prompt [verl]
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-128}         # prompts an update [verl]
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-1024}    # tokens [verl]
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-1024}  # tokens [verl]
MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-4096}  # a micro-batch [ours: 151,936 logits a token]
LR=${LR:-1e-6}                                  # [verl]
TEMPERATURE=${TEMPERATURE:-1.0}                 # [verl]

STEPS=${STEPS:-87}                              # three epochs [verl]
TEST_FREQ=${TEST_FREQ:-29}                      # steps: an epoch [ours]
SAVE_FREQ=${SAVE_FREQ:-29}                      # steps [ours]
KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-1}         # the newest; null keeps all
RESUME_MODE=${RESUME_MODE:-auto}                # auto, disable, or resume_path with trainer.resume_from_path
VAL_N=${VAL_N:-4}                               # samples a problem, so that the report has Pass@k and diversity [ours]
LOGGER=${LOGGER:-'["console","file","tensorboard"]'}  # "wandb" too, with WANDB_API_KEY
PYTHON=${PYTHON:-python3}
#######################################################################

# shellcheck source=algorithms.sh
source "${HERE}/algorithms.sh"

mkdir -p "${RUN_DIR}"
echo "{\"algo\": \"${ALGO}\", \"seed\": ${SEED}}" > "${RUN_DIR}/run.json"

DATA=(
    data.train_files="['${DATA_DIR}/train/gsm8k.parquet']"
    data.val_files="['${DATA_DIR}/val/gsm8k.parquet']"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length="${MAX_PROMPT_LENGTH}"
    data.max_response_length="${MAX_RESPONSE_LENGTH}"
    data.filter_overlong_prompts=True
    data.truncation=error
    data.seed="${SEED}"
)

MODEL=(
    actor_rollout_ref.model.path="${MODEL_PATH}"
    actor_rollout_ref.model.use_remove_padding=True
    actor_rollout_ref.model.enable_gradient_checkpointing=True
    ++actor_rollout_ref.model.override_config.attn_implementation="${ATTENTION}"
)

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu="${MAX_TOKENS_PER_GPU}"
    actor_rollout_ref.actor.fsdp_config.param_offload="${OFFLOAD}"
    actor_rollout_ref.actor.fsdp_config.optimizer_offload="${OFFLOAD}"
    actor_rollout_ref.ref.fsdp_config.param_offload=True
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.temperature="${TEMPERATURE}"
    actor_rollout_ref.rollout.seed="${SEED}"
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.gpu_memory_utilization="${GPU_MEMORY_UTILIZATION}"
    actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))"
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.val_kwargs.n="${VAL_N}"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
)

TRAINER=(
    trainer.nnodes=1
    trainer.n_gpus_per_node="${N_GPUS}"
    trainer.logger="${LOGGER}"
    trainer.project_name=verl_lad_gsm8k
    trainer.experiment_name="${ALGO}-seed${SEED}"
    trainer.total_training_steps="${STEPS}"
    trainer.total_epochs=100
    trainer.val_before_train=True
    trainer.test_freq="${TEST_FREQ}"
    trainer.save_freq="${SAVE_FREQ}"
    trainer.max_actor_ckpt_to_keep="${KEEP_CHECKPOINTS}"
    trainer.resume_mode="${RESUME_MODE}"
    trainer.default_local_dir="${RUN_DIR}/checkpoints"
    trainer.validation_data_dir="${RUN_DIR}/validation"
    hydra.run.dir="${RUN_DIR}/hydra"
    # One file a start: verl's file logger begins its file anew. Passed by Ray, since a cluster does not see this environment.
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="${RUN_DIR}/metrics-$(date +%Y%m%d-%H%M%S).jsonl"
    +ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR="${RUN_DIR}/tensorboard"
)

"${PYTHON}" -m verl.trainer.main_ppo \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${ALGORITHM[@]}" \
    "${TRAINER[@]}" \
    "$@"
