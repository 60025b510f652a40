#!/usr/bin/env bash
# Thinkless-DeepScaleR-1.5B on DAPO-Math-17k: run_qwen_math.sh with other defaults. All of its variables work here too.
# Composed, and run scaled down on CPU (recipes/on_cpu.sh); not yet run on a GPU.
#
#   INSTRUCTION=boxed OUTPUT_DIR=data/math_boxed bash recipes/data/prepare_math.sh    once
#   bash recipes/run_deepscaler_1.5b_math.sh                  LAD as in the paper
#   ALGO=grpo bash recipes/run_deepscaler_1.5b_math.sh        a baseline
#   NNODES=2 RAY_ADDRESS=auto bash recipes/run_deepscaler_1.5b_math.sh trainer.total_training_steps=100
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export MODEL_PATH=${MODEL_PATH:-Vinnnf/Thinkless-1.5B-RL-DeepScaleR}  # [paper]
export DATA_DIR=${DATA_DIR:-data/math_boxed}              # [ours] answers in \boxed{}, as the model was trained
export RUN_DIR=${RUN_DIR:-outputs/run_deepscaler_1.5b_math/${ALGO:-lad}-seed${SEED:-1}}
export GEN_TP=${GEN_TP:-1}                                # [ours]
export VAL_TEMPERATURE=${VAL_TEMPERATURE:-0.6}            # [ours] usual for distilled reasoning models
export VAL_TOP_P=${VAL_TOP_P:-0.95}                       # the same

exec bash "${HERE}/run_qwen_math.sh" "$@"
