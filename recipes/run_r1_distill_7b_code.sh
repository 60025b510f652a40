#!/usr/bin/env bash
# DeepSeek-R1-Distill-Qwen-7B on DeepCoder-Preview, with LAD or one of its baselines: FSDP2 + vLLM on one 8-GPU node or several.
# Validation on LiveCodeBench, HumanEval+ and Codeforces problems.
# Model-written code runs in a confined subprocess on the node of the reward worker, never in a trainer process: resource limits,
# seccomp and Landlock, without privileges (verl_lad/rewards/sandbox.py). This needs Linux 5.13 or newer on x86_64; aarch64 is
# written but not run. Where it does not hold, the script ends before the training starts. There, or for stronger isolation,
# SANDBOX_FUSION_URL=http://host:port/run_code uses a Sandbox Fusion server (github.com/bytedance/SandboxFusion) through verl's
# own client. Programs have the standard library alone.
# Composed, and run scaled down on CPU (recipes/on_cpu.sh); not yet run on a GPU.
#
#   bash recipes/data/prepare_code.sh                     once: training set, decontaminated, and validation sets
#   bash recipes/run_r1_distill_7b_code.sh                  LAD as in the paper
#   ALGO=grpo bash recipes/run_r1_distill_7b_code.sh        a baseline
#   NNODES=2 RAY_ADDRESS=auto bash recipes/run_r1_distill_7b_code.sh trainer.total_training_steps=100
#
# The paper reports, with LAD: LiveCodeBench Avg@16 33.51, HumanEval+ Avg@16 82.29. These numbers are second-hand, and we have
# reproduced none of them. codeforces.parquet gives a pass rate, not the rating that the paper reports.
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
MODEL_PATH=${MODEL_PATH:-deepseek-ai/DeepSeek-R1-Distill-Qwen-7B}  # [paper] hub name, or a directory
DATA_DIR=$(realpath -m "${DATA_DIR:-data/code}")
TRAIN_FILES=${TRAIN_FILES:-"['${DATA_DIR}/train/deepcoder.parquet']"}  # [paper]
VAL_FILES=${VAL_FILES:-"['${DATA_DIR}/val/livecodebench.parquet','${DATA_DIR}/val/humanevalplus.parquet','${DATA_DIR}/val/codeforces.parquet']"}  # [paper]
RUN_DIR=$(realpath -m "${RUN_DIR:-outputs/run_r1_distill_7b_code/${ALGO}-seed${SEED}}")  # all that a run writes; a second start resumes

NNODES=${NNODES:-1}
N_GPUS=${N_GPUS:-8}                             # a node
GEN_TP=${GEN_TP:-2}                             # tensor parallel size of vLLM [ours]
SP_SIZE=${SP_SIZE:-2}                           # Ulysses sequence parallel size [ours]
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.6}  # of vLLM [verl: examples/grpo_trainer]
OFFLOAD=${OFFLOAD:-False}                       # parameters and optimizer to CPU memory; True on small GPUs

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-64}        # prompts a step [FlowRL]
ROLLOUT_N=${ROLLOUT_N:-8}                       # responses a prompt [FlowRL]
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-32}          # prompts an update [FlowRL]
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-2048}    # tokens [FlowRL]
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-8192}  # tokens [FlowRL]
MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))}  # a micro-batch [ours]
LR=${LR:-1e-6}                                  # [FlowRL]
LR_WARMUP_STEPS=${LR_WARMUP_STEPS:-10}          # [FlowRL]
WEIGHT_DECAY=${WEIGHT_DECAY:-0.1}               # [FlowRL]
TEMPERATURE=${TEMPERATURE:-0.6}                 # [FlowRL]

STEPS=${STEPS:-200}                             # [ours]
TEST_FREQ=${TEST_FREQ:-20}                      # steps [ours]
SAVE_FREQ=${SAVE_FREQ:-20}                      # steps [ours]
KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-2}         # the newest; null keeps all
RESUME_MODE=${RESUME_MODE:-auto}                # auto, disable, or resume_path with trainer.resume_from_path
VAL_N=${VAL_N:-4}                               # samples a problem while training [ours]; the paper's: 16 (README.md, "The paper's numbers")
VAL_TEMPERATURE=${VAL_TEMPERATURE:-0.6}         # [the model's card]
VAL_TOP_P=${VAL_TOP_P:-0.95}                    # the same
LOGGER=${LOGGER:-'["console","file","tensorboard"]'}  # "wandb" too, with WANDB_API_KEY
TEST_SECONDS=${TEST_SECONDS:-10}                # CPU and wall time of a test [verl: utils/reward_score/prime_code]
TEST_MEMORY_MB=${TEST_MEMORY_MB:-1024}          # [verl: reward.sandbox_fusion.memory_limit_mb]
SANDBOX_FUSION_URL=${SANDBOX_FUSION_URL:-null}  # a Sandbox Fusion server, instead of subprocesses beside the reward workers
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

# Fail now, and not at the first reward, if model-written code cannot be confined here.
if [[ ${SANDBOX_FUSION_URL} == null ]]; then
    "${PYTHON}" -c "from verl_lad.rewards.sandbox import check_confinement; check_confinement()"
fi

REWARD=(
    reward.custom_reward_function.path=pkg://verl_lad.rewards.code
    +reward.custom_reward_function.reward_kwargs.time_limit="${TEST_SECONDS}"
    +reward.custom_reward_function.reward_kwargs.memory_mb="${TEST_MEMORY_MB}"
    +reward.custom_reward_function.reward_kwargs.sandbox_fusion_url="${SANDBOX_FUSION_URL}"
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
    trainer.project_name=verl_lad_code
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
