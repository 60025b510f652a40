#!/usr/bin/env bash
# Run another recipe of this directory scaled down on two CPU cores, with the same script, reward and algorithm. It shows
# that a change works before it takes GPUs. It says nothing about speed or accuracy at scale. Two FSDP ranks, two vLLM
# servers, float32, small batches: about 8 GB with a tiny model.
#
#   MODEL_PATH=a/small/model DATA_DIR=data/math bash recipes/on_cpu.sh run_qwen_math.sh
#   ALGO=lad_anchored STEPS=10 MODEL_PATH=... DATA_DIR=... bash recipes/on_cpu.sh run_qwen_math.sh algorithm.lad.eta=0.5
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RECIPE=${1:?the name of a recipe in ${HERE}, e.g. run_qwen_math.sh}
shift

########################### user-adjustable ###########################
export MODEL_PATH=${MODEL_PATH:?a directory with a small model of the Hugging Face layout}
export DATA_DIR=${DATA_DIR:?what recipes/data/prepare_math.sh, prepare_code.sh or prepare_gsm8k.sh wrote}
export RUN_DIR=${RUN_DIR:-outputs/on_cpu/${RECIPE%.sh}-${ALGO:-lad}}
export N_GPUS=${N_GPUS:-2}                      # FSDP ranks, and vLLM servers
export GEN_TP=${GEN_TP:-1} SP_SIZE=${SP_SIZE:-1}
export TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-8} ROLLOUT_N=${ROLLOUT_N:-4} MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-4}
export MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-1024} MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-128}
export STEPS=${STEPS:-2} TEST_FREQ=${TEST_FREQ:-2} SAVE_FREQ=${SAVE_FREQ:--1} VAL_N=${VAL_N:-1}
export LOGGER=${LOGGER:-'["console","file"]'}
export PYTHON=${PYTHON:-python3}
TIME_LIMIT=${TIME_LIMIT:-1500}                  # seconds; a failed weight sync hangs a run instead of ending it
#######################################################################

# shellcheck source=cpu.sh
source "${HERE}/cpu.sh"

"${PYTHON}" -m verl_lad.cpu.run --time-limit "${TIME_LIMIT}" -- bash "${HERE}/${RECIPE}" \
    "${CPU[@]}" \
    actor_rollout_ref.rollout.max_num_seqs=64 \
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=256 \
    "$@"
