#!/usr/bin/env bash
# GSM8K: the test split for validation, then the training split, decontaminated against it.
#
#   bash recipes/data/prepare_gsm8k.sh                        from the Hugging Face hub
#   SOURCE_DIR=copies bash recipes/data/prepare_gsm8k.sh      from a local copy, copies/gsm8k
#   bash recipes/data/prepare_gsm8k.sh --limit 100            further options go to both calls of gsm8k.py
set -xeuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

########################### user-adjustable ###########################
OUTPUT_DIR=${OUTPUT_DIR:-data/gsm8k}    # train/ and val/ in it
SOURCE_DIR=${SOURCE_DIR:-}              # SOURCE_DIR/gsm8k is a copy of the hub's repository; empty: the hub
PYTHON=${PYTHON:-python3}
#######################################################################

SOURCE=()
if [[ -n "${SOURCE_DIR}" ]]; then
    SOURCE=(--source "${SOURCE_DIR}/gsm8k")
fi

"${PYTHON}" "${HERE}/gsm8k.py" --split test --output "${OUTPUT_DIR}/val/gsm8k.parquet" "${SOURCE[@]}" "$@"
"${PYTHON}" "${HERE}/gsm8k.py" --split train --output "${OUTPUT_DIR}/train/gsm8k.parquet" "${SOURCE[@]}" \
    --decontaminate "${OUTPUT_DIR}/val/gsm8k.parquet" "$@"
