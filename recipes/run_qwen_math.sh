#!/usr/bin/env bash
# Qwen2.5-7B on DAPO-Math-17k, with LAD or one of its baselines: FSDP2 + vLLM on one 8-GPU node or several.
# Validation on MATH500, AIME24, AIME25, AMC, OlympiadBench and Minerva.
# Composed, and run scaled down on CPU (recipes/on_cpu.sh); not yet run on a GPU.
#
#   bash recipes/data/prepare_math.sh              once: training set, decontaminated, and validation sets
#   bash recipes/run_qwen_math.sh                  LAD as in the paper
#   ALGO=grpo bash recipes/run_qwen_math.sh        a baseline
#   NNODES=2 RAY_ADDRESS=auto bash recipes/run_qwen_math.sh trainer.total_training_steps=100
#
# The paper reports Avg@32, mean of the six sets 40.08 with LAD and 37.28 with GRPO; AIME24 19.60 and 14.03, AIME25 8.84 and
# 4.86, OlympiadBench 41.25 and 39.47. These numbers are second-hand, and we have reproduced none of them.
#
# Sources of the values: [paper] arXiv 2602.20132 as reported, [FlowRL] the published scripts of FlowRL (arXiv 2509.15207),
# whose models, data and benchmarks the paper uses, where the paper's value is not known, [verl] its default or the example
# named, [ours] this project's. FlowRL's KL loss is left out: LAD has none, and grpo_kl is the baseline with a KL.
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                               # lad lad_anchored grpo grpo_kl kl_cov clip_cov entropy gspo dro
# ETA, DIVERGENCE, RATIO, ANCHOR and the baselines' own settings, each with its source: recipes/algorithms.sh
SEED=${SEED:-1}
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-7B}       # [paper] hub name, or a directory
DATA_DIR=$(realpath -m "${DATA_DIR:-data/math}")
TRAIN_FILES=${TRAIN_FILES:-"['${DATA_DIR}/train/dapo_math_17k.parquet']"}  # [paper]
VAL_FILES=${VAL_FILES:-"['${DATA_DIR}/val/math500.parquet','${DATA_DIR}/val/aime24.parquet','${DATA_DIR}/val/aime25.parquet','${DATA_DIR}/val/amc.parquet','${DATA_DIR}/val/olympiadbench.parquet','${DATA_DIR}/val/minerva.parquet']"}  # [paper]
RUN_DIR=$(realpath -m "${RUN_DIR:-outputs/run_qwen_math/${ALGO}-seed${SEED}}")  # all that a run writes; a second start resumes

NNODES=${NNODES:-1}
N_GPUS=${N_GPUS:-8}                             # a node
GEN_TP=${GEN_TP:-2}                             # tensor parallel size of vLLM [ours]
SP_SIZE=${SP_SIZE:-1}                           # Ulysses sequence parallel size [ours]
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.6}  # of vLLM [verl: examples/grpo_trainer]
OFFLOAD=${OFFLOAD:-False}                       # parameters and optimizer to CPU memory; True on small GPUs

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-512}       # prompts a step [FlowRL]
ROLLOUT_N=${ROLLOUT_N:-8}                       # responses a prompt [FlowRL]
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-32}          # prompts an update [FlowRL]
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-2048}    # tokens [FlowRL]
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-8192}  # tokens [FlowRL]
MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))}  # a micro-batch [ours]
LR=${LR:-1e-6}                                  # [FlowRL]
LR_WARMUP_STEPS=${LR_WARMUP_STEPS:-10}          # [FlowRL]
WEIGHT_DECAY=${WEIGHT_DECAY:-0.1}               # [FlowRL]
TEMPERATURE=${TEMPERATURE:-1.0}                 # [verl: default]

STEPS=${STEPS:-200}                             # [ours]
TEST_FREQ=${TEST_FREQ:-20}                      # steps [ours]
SAVE_FREQ=${SAVE_FREQ:-20}                      # steps [ours]
KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-2}         # the newest; null keeps all
RESUME_MODE=${RESUME_MODE:-auto}                # auto, disable, or resume_path with trainer.resume_from_path
VAL_N=${VAL_N:-4}                               # samples a problem while training [ours]; the paper's: 32 (README.md, "The paper's numbers")
VAL_TEMPERATURE=${VAL_TEMPERATURE:-1.0}         # [FlowRL]
VAL_TOP_P=${VAL_TOP_P:-0.7}                     # the same
LOGGER=${LOGGER:-'["console","file","tensorboard"]'}  # "wandb" too, with WANDB_API_KEY
PYTHON=${PYTHON:-python3}
#######################################################################

# shellcheck source=algorithms.sh
source "${HERE}/algorithms.sh"

mkdir -p "${RUN_DIR}"
echo "{\"algo\": \"${ALGO}\", \"seed\": ${SEED}}" > "${RUN_DIR}/run.json"

DATA=(
    data.train_files="${TRAIN_FILES}"
    data.val_files="${VAL_FILES}"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length="${MAX_PROMPT_LENGTH}"
    data.max_response_length="${MAX_RESPONSE_LENGTH}"
    data.filter_overlong_prompts=True
    data.truncation=error
    data.seed="${SEED}"
)

# Fail now, and not at the first reward, if math-verify is missing.
"${PYTHON}" -c "import verl_lad.rewards.math"

REWARD=(
    reward.custom_reward_function.path=pkg://verl_lad.rewards.math
)

MODEL=(
    actor_rollout_ref.model.path="${MODEL_PATH}"
    actor_rollout_ref.model.use_remove_padding=True
    actor_rollout_ref.model.enable_gradient_checkpointing=True
)

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.optim.lr_warmup_steps="${LR_WARMUP_STEPS}"
    actor_rollout_ref.actor.optim.weight_decay="${WEIGHT_DECAY}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu="${MAX_TOKENS_PER_GPU}"
    actor_rollout_ref.actor.ulysses_sequence_parallel_size="${SP_SIZE}"
    actor_rollout_ref.actor.fsdp_config.param_offload="${OFFLOAD}"
    actor_rollout_ref.actor.fsdp_config.optimizer_offload="${OFFLOAD}"
    actor_rollout_ref.ref.fsdp_config.param_offload="${OFFLOAD}"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.temperature="${TEMPERATURE}"
    actor_rollout_ref.rollout.seed="${SEED}"
    actor_rollout_ref.rollout.tensor_model_parallel_size="${GEN_TP}"
    actor_rollout_ref.rollout.gpu_memory_utilization="${GPU_MEMORY_UTILIZATION}"
    actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))"
    actor_rollout_ref.rollout.max_num_batched_tokens="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))"
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.val_kwargs.n="${VAL_N}"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature="${VAL_TEMPERATURE}"
    actor_rollout_ref.rollout.val_kwargs.top_p="${VAL_TOP_P}"
)

TRAINER=(
    trainer.nnodes="${NNODES}"
    trainer.n_gpus_per_node="${N_GPUS}"
    trainer.logger="${LOGGER}"
    trainer.project_name=verl_lad_math
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
    "${REWARD[@]}" \
    "${MODEL[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${ALGORITHM[@]}" \
    "${TRAINER[@]}" \
    "$@"
