#!/usr/bin/env bash
# The study of recipes/study: many small runs in verl's own trainer on two CPU cores, in one launch or in several.
# A run that has its file in RESULTS_DIR, or is packed in RESULTS_DIR.jsonl.xz, is not repeated.
#
#   bash recipes/run_study.sh                    everything that is missing
#   ONLY=main-digits bash recipes/run_study.sh   runs whose names begin so; several, separated by spaces
#   python recipes/study/results.py              adds the new runs to recipes/study/results.jsonl.xz
#   python recipes/study/analyse.py              tables and figures from the packed runs
#
# All values are this project's. About two minutes to launch, and 8 GB.
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
RESULTS_DIR=${RESULTS_DIR:-${HERE}/study/results}
ASSETS_DIR=${ASSETS_DIR:-outputs/study/bases}
ONLY=${ONLY:-}                                # names of runs begin so; empty: all
LIMIT=${LIMIT:-1000}                          # runs in this launch
STEPS=${STEPS:-}                              # for a trial: steps a run; empty: the plan's
DRY_RUN=${DRY_RUN:-}                          # not empty: name the runs, compose them, stop
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8}       # prompts a step
ROLLOUT_N=${ROLLOUT_N:-16}                    # responses a prompt
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-2}         # prompts an update: four updates a step and epoch
LR=${LR:-2e-4}
TIME_LIMIT=${TIME_LIMIT:-36000}               # seconds
PYTHON=${PYTHON:-python3}
#######################################################################

export N_GPUS=1                               # FSDP ranks, and vLLM servers
MICRO_BATCH_SIZE=$((MINI_BATCH_SIZE * ROLLOUT_N))
LOG_PROB_MICRO_BATCH_SIZE=$((TRAIN_BATCH_SIZE * ROLLOUT_N))
# shellcheck source=cpu.sh
source "${HERE}/cpu.sh"

DATA=(
    data.train_batch_size="${TRAIN_BATCH_SIZE}"
    data.max_prompt_length=32
    data.max_response_length=16
    reward.custom_reward_function.path="${HERE}/study/tasks.py"
)

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="${LR}"
    actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="${MICRO_BATCH_SIZE}"
    actor_rollout_ref.actor.use_kl_loss=False
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="${LOG_PROB_MICRO_BATCH_SIZE}"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="${ROLLOUT_N}"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="${LOG_PROB_MICRO_BATCH_SIZE}"
    actor_rollout_ref.rollout.max_model_len=64
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.max_num_batched_tokens=4096
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64
)

TRAINER=(
    trainer.nnodes=1
    trainer.n_gpus_per_node="${N_GPUS}"
    trainer.logger='["console"]'
    trainer.project_name=verl_lad_study
    trainer.experiment_name=study
    trainer.total_epochs=1000
    trainer.val_before_train=False
    trainer.test_freq=-1
    trainer.save_freq=-1
    trainer.resume_mode=disable
)

ARGUMENTS=(--results "${RESULTS_DIR}" --assets "${ASSETS_DIR}" --limit "${LIMIT}")
if [[ -n ${ONLY} ]]; then
    # shellcheck disable=SC2206  # several, separated by spaces
    ARGUMENTS+=(--only ${ONLY})
fi
if [[ -n ${STEPS} ]]; then
    ARGUMENTS+=(--steps "${STEPS}")
fi
if [[ -n ${DRY_RUN} ]]; then
    ARGUMENTS+=(--dry-run)
fi

"${PYTHON}" -m verl_lad.cpu.run --time-limit "${TIME_LIMIT}" -- \
    "${PYTHON}" "${HERE}/study/train.py" "${ARGUMENTS[@]}" -- \
    "${DATA[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${TRAINER[@]}" \
    "${CPU[@]}" \
    "$@"
