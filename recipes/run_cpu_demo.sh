#!/usr/bin/env bash
# One run of verl's own trainer on two CPU cores: Ray, FSDP2, vLLM rollout, weight sync. About 4 minutes, 12 GB.
# Task and base model are the study's (recipes/study). `make demo` is three of these runs: recipes/cpu_demo/demo.py.
#
#   ALGO=lad bash recipes/run_cpu_demo.sh             LAD as in the paper
#   ALGO=lad_anchored bash recipes/run_cpu_demo.sh    LAD with a target that stands still, and four epochs a batch
#   ALGO=grpo bash recipes/run_cpu_demo.sh            the baseline, or any other ALGO of recipes/algorithms.sh
#   bash recipes/run_cpu_demo.sh algorithm.lad.eta=0.5 trainer.total_training_steps=20
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}
SEED=${SEED:-0}                               # of the base model and of the order of the data
OUTPUT_DIR=${OUTPUT_DIR:-outputs/cpu_demo}
RUN_DIR=${RUN_DIR:-${OUTPUT_DIR}/runs/${ALGO}}
ASSETS_DIR=${ASSETS_DIR:-${OUTPUT_DIR}/base-seed${SEED}}
STEPS=${STEPS:-25}
TEST_FREQ=${TEST_FREQ:-${STEPS}}              # steps between verl's validations, the first before training
VAL_SAMPLES=${VAL_SAMPLES:-16}                # validation samples a prompt, 8 prompts
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8}       # prompts a step
ROLLOUT_N=${ROLLOUT_N:-16}                    # responses a prompt
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-2}         # prompts an update: four updates a step, so that the ratio leaves 1
LR=${LR:-2e-4}
N_GPUS=${N_GPUS:-1}                           # FSDP ranks, and vLLM servers
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-$((MINI_BATCH_SIZE * ROLLOUT_N / N_GPUS))}
SAVE_FREQ=${SAVE_FREQ:-5}                     # steps between checkpoints, which the table at the end is made from
RESUME_MODE=${RESUME_MODE:-disable}           # auto: a second start goes on after the newest checkpoint
TIME_LIMIT=${TIME_LIMIT:-1500}                # seconds
PYTHON=${PYTHON:-python3}
#######################################################################

# shellcheck source=algorithms.sh
source "${HERE}/algorithms.sh"

mkdir -p "$(dirname "${RUN_DIR}")" "$(dirname "${ASSETS_DIR}")"
RUN_DIR=$(cd "$(dirname "${RUN_DIR}")" && pwd)/$(basename "${RUN_DIR}")
ASSETS_DIR=$(cd "$(dirname "${ASSETS_DIR}")" && pwd)/$(basename "${ASSETS_DIR}")
# A run of the same name is going on: take another name.
exec {LOCK}> "${RUN_DIR}.lock"
flock --nonblock "${LOCK}" || RUN_DIR=${RUN_DIR}-$$
if [[ ${RESUME_MODE} == disable ]]; then
    rm -rf "${RUN_DIR}"
fi
mkdir -p "${RUN_DIR}"
echo "{\"algo\": \"${ALGO}\", \"seed\": ${SEED}}" > "${RUN_DIR}/run.json"
"${PYTHON}" "${HERE}/study/bases.py" "${ASSETS_DIR}" --task digits --seed "${SEED}"

# shellcheck source=cpu.sh
source "${HERE}/cpu.sh"

DATA=(
    data.train_files="${ASSETS_DIR}/train.parquet"
    data.val_files="${ASSETS_DIR}/val.parquet"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length=16
    data.max_response_length=8
    data.seed="${SEED}"
    reward.custom_reward_function.path="${HERE}/study/tasks.py"
)

MODEL=(actor_rollout_ref.model.path="${ASSETS_DIR}/model")

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.actor.use_kl_loss=False
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.rollout.max_model_len=64
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.max_num_batched_tokens=4096
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64
    actor_rollout_ref.rollout.val_kwargs.n="${VAL_SAMPLES}"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
)

TRAINER=(
    trainer.nnodes=1
    trainer.n_gpus_per_node="${N_GPUS}"
    trainer.logger='["console","file"]'
    trainer.project_name=verl_lad_cpu_demo
    trainer.experiment_name="${ALGO}"
    trainer.total_training_steps="${STEPS}"
    trainer.total_epochs=1000
    trainer.val_before_train=True
    trainer.test_freq="${TEST_FREQ}"
    trainer.validation_data_dir="${RUN_DIR}/validation"
    trainer.save_freq="${SAVE_FREQ}"
    actor_rollout_ref.actor.checkpoint.save_contents='[model,optimizer,extra,hf_model]'
    trainer.resume_mode="${RESUME_MODE}"
    trainer.default_local_dir="${RUN_DIR}/checkpoints"
    hydra.run.dir="${RUN_DIR}/hydra"
)

# One file a start: verl's file logger begins its file anew.
VERL_FILE_LOGGER_PATH=${RUN_DIR}/metrics-$(date +%Y%m%d-%H%M%S).jsonl
export VERL_FILE_LOGGER_PATH

"${PYTHON}" -m verl_lad.cpu.run --time-limit "${TIME_LIMIT}" -- \
    "${PYTHON}" -m verl.trainer.main_ppo \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${ALGORITHM[@]}" \
    "${TRAINER[@]}" \
    "${CPU[@]}" \
    actor_rollout_ref.rollout.agent.num_workers=1 \
    "$@"

"${PYTHON}" "${HERE}/cpu_demo/measure.py" "${RUN_DIR}" --base "${ASSETS_DIR}" --task digits
