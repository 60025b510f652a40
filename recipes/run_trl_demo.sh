#!/usr/bin/env bash
# Train the task and the model of run_cpu_demo.sh with TRL's GRPOTrainer and LAD, and print a report. The run takes one
# process on one CPU core, about two minutes and 1 GB, without Ray and vLLM; making the model takes a minute once. It needs
# TRL, in an environment without verl (README, "TRL").
#
#   bash recipes/run_trl_demo.sh                      LAD as in the paper
#   ALGO=lad_anchored bash recipes/run_trl_demo.sh    LAD with a target that stands still
#   ALGO=grpo bash recipes/run_trl_demo.sh            the baseline
#   bash recipes/run_trl_demo.sh --lad_divergence hellinger --top_entropy_quantile 0.5
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
ALGO=${ALGO:-lad}                             # lad, lad_anchored, grpo
ETA=${ETA:-}                                  # lad: 0.25 (the paper's 1/eta = 4); lad_anchored: 0.125 (ours)
SEED=${SEED:-0}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/trl_demo}
RUN_DIR=${RUN_DIR:-${OUTPUT_DIR}/runs/${ALGO}}
ASSETS_DIR=${ASSETS_DIR:-${OUTPUT_DIR}/assets-seed${SEED}}
STEPS=${STEPS:-40}                            # generations, as verl counts; TRL counts updates
TEST_FREQ=${TEST_FREQ:-20}
VAL_SAMPLES=${VAL_SAMPLES:-48}                # validation samples a prompt, 8 prompts
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8}       # prompts a step
ROLLOUT_N=${ROLLOUT_N:-16}                    # responses a prompt
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-2}         # prompts an update: four updates a step, so that the ratio leaves 1
NUM_ITERATIONS=${NUM_ITERATIONS:-1}           # passes over the responses of a step
LR=${LR:-2e-4}
PYTHON=${PYTHON:-python3}
#######################################################################

case ${ALGO} in
    lad) ALGORITHM=(--lad_eta "${ETA:-0.25}") ;;
    lad_anchored) ALGORITHM=(--lad_anchor reference --lad_eta "${ETA:-0.125}") ;;
    grpo) ALGORITHM=() ;;
    *)
        echo "ALGO=${ALGO} is not allowed: lad, lad_anchored or grpo" >&2
        exit 2 ;;
esac

rm -rf "${RUN_DIR}"
mkdir -p "${RUN_DIR}" "$(dirname "${ASSETS_DIR}")"
echo "{\"algo\": \"${ALGO}\", \"seed\": ${SEED}}" > "${RUN_DIR}/run.json"
"${PYTHON}" "${HERE}/study/bases.py" "${ASSETS_DIR}" --task digits --seed "${SEED}"

DEMO=(
    --algo "${ALGO}"
    --assets "${ASSETS_DIR}"
    --test_freq "${TEST_FREQ}"
    --val_samples "${VAL_SAMPLES}"
)

TRAINER=(
    --output_dir "${RUN_DIR}"
    --seed "${SEED}"
    --max_steps "$((STEPS * NUM_ITERATIONS * TRAIN_BATCH_SIZE / MINI_BATCH_SIZE))"
    --per_device_train_batch_size "$((MINI_BATCH_SIZE * ROLLOUT_N))"
    --steps_per_generation "$((TRAIN_BATCH_SIZE / MINI_BATCH_SIZE))"
    --num_iterations "${NUM_ITERATIONS}"
    --num_generations "${ROLLOUT_N}"
    --max_completion_length 8
    --learning_rate "${LR}"
    --lr_scheduler_type constant
    --weight_decay 0.01
    --logging_steps "$((NUM_ITERATIONS * TRAIN_BATCH_SIZE / MINI_BATCH_SIZE))"
    --save_strategy no
    --report_to none
    --disable_tqdm True
    --use_cpu True
    --bf16 False
    --gradient_checkpointing False
)

export HF_HUB_OFFLINE=1
"${PYTHON}" "${HERE}/trl_demo/train.py" "${DEMO[@]}" "${TRAINER[@]}" "${ALGORITHM[@]}" "$@"

# The report covers every run beside this one.
"${PYTHON}" -m verl_lad.cli.main report "$(dirname "${RUN_DIR}")" \
    --output "${OUTPUT_DIR}/report" --figure "${OUTPUT_DIR}/report.png"
