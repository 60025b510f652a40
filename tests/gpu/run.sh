#!/usr/bin/env bash
# All that proves LAD on one CUDA GPU, in about ten minutes: `make gpu`. docs/gpu.md has the results of a run.
# PYTHON is of an environment with verl, vLLM and pytest, hypothesis and mpmath; liger-kernel for its comparison.
#
#   PYTHON=python3 bash tests/gpu/run.sh                  everything
#   PYTHON=python3 bash tests/gpu/run.sh tests engine     some of: tests engine loss linear train
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "${HERE}/../.."

########################### user-adjustable ###########################
PYTHON=${PYTHON:-python3}
OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-outputs/gpu}")
ALGOS=${ALGOS:-"lad grpo"}                      # trained one after the other; the last is the baseline
#######################################################################

export OUTPUT_DIR PYTHON RESULTS=${OUTPUT_DIR} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
mkdir -p "${OUTPUT_DIR}"
[[ $# -gt 0 ]] || set -- tests engine loss linear train
PYTEST=("${PYTHON}" -m pytest -q -p no:cacheprovider)
failed=()
for part in "$@"; do
    case ${part} in
        tests)
            "${PYTEST[@]}" -m gpu tests/gpu || failed+=("${part}") ;;
        engine)
            for dtype in fp32 bf16; do
                PYTHONPATH=tests:tests/gpu:${PYTHONPATH:-} ENGINE_DTYPE=${dtype} "${PYTEST[@]}" --timeout 0 -p engine_plugin \
                    tests/adapters/verl/test_engine_worker.py -k "gradient_is_that" || failed+=("${part}-${dtype}")
            done ;;
        loss)
            "${PYTHON}" tests/benchmarks/bench_loss.py --device cuda || failed+=("${part}") ;;
        linear)
            "${PYTHON}" tests/benchmarks/bench_linear.py --device cuda || failed+=("${part}") ;;
        train)
            runs=()
            for algo in ${ALGOS}; do
                ALGO=${algo} bash tests/gpu/train.sh || failed+=("train-${algo}")
                runs+=("${OUTPUT_DIR}/runs/${algo}")
            done
            "${PYTHON}" tests/gpu/compare.py "${runs[@]}" || failed+=(compare) ;;
        *)
            echo "part ${part} is not allowed: tests, engine, loss, linear or train" >&2
            exit 2 ;;
    esac
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
