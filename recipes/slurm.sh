#!/usr/bin/env bash
#SBATCH --job-name=verl-lad
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=48:00:00
# Run another recipe of this directory on the nodes of a SLURM job: a Ray node on each, the recipe on the first.
# Tried with stand-ins for srun and scontrol on one machine (tests/e2e/test_slurm.py); not yet run on a cluster.
#
#   sbatch --nodes=2 recipes/slurm.sh run_qwen_math.sh
#   ALGO=grpo sbatch --nodes=4 recipes/slurm.sh run_qwen_math.sh trainer.total_training_steps=100
#
# Start it from the repository's root, in an environment (conda, venv) that every node sees.
set -xeuo pipefail

RECIPE=${1:?the name of a recipe in recipes/, e.g. run_qwen_math.sh}
shift

########################### user-adjustable ###########################
RECIPES=${RECIPES:-${SLURM_SUBMIT_DIR}/recipes}
export NNODES=${NNODES:-${SLURM_JOB_NUM_NODES}}
export N_GPUS=${N_GPUS:-8}                      # a node
export PYTHON=${PYTHON:-python3}
RAY_PORT=${RAY_PORT:-6379}
NODE_SECONDS=${NODE_SECONDS:-300}               # for all nodes to join
# "token" needs ~/.ray/auth_token on every node (ray get-auth-token --generate); unset, Ray decides for each node anew.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-disabled}
#######################################################################

mapfile -t NODES < <(scontrol show hostnames "${SLURM_JOB_NODELIST}")
HEAD=${NODES[0]}
HEAD_IP=$(srun --nodes=1 --ntasks=1 -w "${HEAD}" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS=${HEAD_IP}:${RAY_PORT}
RAY=("${PYTHON}" -m ray.scripts.scripts start --block --disable-usage-stats --num-gpus="${N_GPUS}")

# In the foreground of a step in the background: SLURM ends Ray's processes with the job.
srun --nodes=1 --ntasks=1 --overlap -w "${HEAD}" \
    env -u RAY_ADDRESS "${RAY[@]}" --head --node-ip-address="${HEAD_IP}" --port="${RAY_PORT}" &
for node in "${NODES[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap -w "${node}" "${RAY[@]}" --address="${RAY_ADDRESS}" &
done

deadline=$((SECONDS + NODE_SECONDS))
until "${PYTHON}" -c "
import ray
ray.init(logging_level='ERROR')
assert sum(node['Alive'] for node in ray.nodes()) == ${NNODES}"; do
    if ((SECONDS > deadline)); then
        echo "fewer than ${NNODES} Ray nodes at ${RAY_ADDRESS} after ${NODE_SECONDS} s" >&2
        exit 1
    fi
    sleep 5
done

# Fail now, and not at the first update, if the plugin is missing on a node.
"${PYTHON}" -m verl_lad.cli.main doctor --ray "${RAY_ADDRESS}"

bash "${RECIPES}/${RECIPE}" "$@"
