#!/usr/bin/env bash
# LAD in verl's own trainer on two CPU cores: Ray, 2 FSDP2 ranks, vLLM rollout, weight sync. About 8 minutes, 12 GB.
# Makes its own model and data (recipes/cpu_demo), and ends with a table and a figure that overlays all runs so far.
#
#   bash recipes/run_cpu_demo.sh                      LAD as in the paper
#   ALGO=lad_anchored bash recipes/run_cpu_demo.sh    LAD with a target that stands still
#   ALGO=grpo bash recipes/run_cpu_demo.sh            the baseline
#   bash recipes/run_cpu_demo.sh algorithm.lad.eta=0.5 trainer.total_training_steps=20
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                             # lad, lad_anchored, grpo
ETA=${ETA:-}                                  # lad: 0.25 (the paper's 1/eta = 4); lad_anchored: 0.125 (ours)
SEED=${SEED:-0}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/cpu_demo}
RUN_DIR=${RUN_DIR:-${OUTPUT_DIR}/runs/${ALGO}}
ASSETS_DIR=${ASSETS_DIR:-${OUTPUT_DIR}/assets-seed${SEED}}
STEPS=${STEPS:-40}
TEST_FREQ=${TEST_FREQ:-20}
VAL_SAMPLES=${VAL_SAMPLES:-48}                # validation samples a prompt, 28 prompts
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-28}      # prompts a step
ROLLOUT_N=${ROLLOUT_N:-8}                     # responses a prompt
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-7}         # prompts an update: four updates a step, so that the ratio leaves 1
LR=${LR:-3e-4}
N_GPUS=${N_GPUS:-2}                           # FSDP ranks, and vLLM servers
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-$((MINI_BATCH_SIZE * ROLLOUT_N / N_GPUS))}
SAVE_FREQ=${SAVE_FREQ:--1}                    # steps; with RESUME_MODE=auto a second start goes on after the last
RESUME_MODE=${RESUME_MODE:-disable}
TIME_LIMIT=${TIME_LIMIT:-1500}                # seconds
PYTHON=${PYTHON:-python3}
#######################################################################

case ${ALGO} in
    lad|lad_anchored|grpo) ;;
    *)
        echo "ALGO=${ALGO} is not allowed: lad, lad_anchored or grpo" >&2
        exit 2 ;;
esac
# shellcheck source=algorithms.sh
source "${HERE}/algorithms.sh"

mkdir -p "$(dirname "${RUN_DIR}")" "$(dirname "${ASSETS_DIR}")"
OUTPUT_DIR=$(cd "$(dirname "${RUN_DIR}")/.." && pwd)
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
"${PYTHON}" "${HERE}/cpu_demo/prepare.py" "${ASSETS_DIR}" --seed "${SEED}"

# shellcheck source=cpu.sh
source "${HERE}/cpu.sh"

DATA=(
    data.train_files="${ASSETS_DIR}/train.parquet"
    data.val_files="${ASSETS_DIR}/val.parquet"
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length=16
    data.max_response_length=8
    data.seed="${SEED}"
    reward.custom_reward_function.path="${HERE}/cpu_demo/task.py"
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
    "$@"

RUNS=()
for run in "${OUTPUT_DIR}"/runs/*/; do
    if [[ -f "${run}validation/0.jsonl" ]]; then
        RUNS+=("${run%/}")
    fi
done
if [[ ${#RUNS[@]} -gt 0 ]]; then
    # Status 1: it skipped something, and said what; a run beside this one may be half written.
    "${PYTHON}" -m verl_lad.cli.main report "${RUNS[@]}" \
        --output "${OUTPUT_DIR}/report" --figure "${OUTPUT_DIR}/report.png" || [[ $? -eq 1 ]]
else
    echo "no run with a validation before training: nothing to report"
fi
