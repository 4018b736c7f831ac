#!/bin/bash
# Several nodes under SLURM: sbatch trainer/recipes/accelerate/slurm.sh RECIPE.yaml --run_dir=runs/mine …
# The run's folder and the corpus must be on a file system that all nodes share. SLURM sends a signal
# 120 s before the time limit. The trainers then save a checkpoint, and the job is requeued.
#SBATCH --job-name=whisper-loop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

export CONFIG=${CONFIG:-trainer/recipes/accelerate/ddp.yaml} # or another of this folder
MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_ADDRESS

status=0
# shellcheck disable=SC2016 # each node fills in its own rank
srun --kill-on-bad-exit=0 bash -c '
  export ACCELERATE_ARGS="--config_file $CONFIG --num_machines $SLURM_NNODES \
    --num_processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) --machine_rank $SLURM_NODEID \
    --main_process_ip $MAIN_ADDRESS --main_process_port 29500 --dynamo_backend no"
  exec ./launch.sh "$@" --resume=auto' launch "$@" || status=$?

[ "$status" -ne 85 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
