#!/bin/bash
#SBATCH --job-name=dipole
#SBATCH --array=0-4                 # a run for each seed
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=2           # with a GPU: add --gres=gpu:1
#SBATCH --signal=USR1@300           # five minutes before the time is over: save, and end with status 75
#SBATCH --requeue                   # also when the node fails or is wanted by a more urgent job
#SBATCH --open-mode=append
# sbatch examples/slurm.sh [task=NAME option=value …]
# The same command at every start: resume=auto begins the run in its folder, or goes on with it.
seed=${SLURM_ARRAY_TASK_ID:-0}
folder=runs/${SLURM_ARRAY_JOB_ID:-local}/seed$seed

srun dipole train "$@" seed="$seed" run_dir="$folder" resume=auto progress_bar=false
status=$?

# 75: stopped before its end, and saved. The job goes back into the queue and starts again with the same number.
if [ $status -eq 75 ] && [ -n "$SLURM_JOB_ID" ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit $status
