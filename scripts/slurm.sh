#!/bin/sh
#SBATCH --job-name=mamba
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
# One run as a Slurm job, on as many hosts as sbatch gives it: a task a host, which share out the members. Told that its time
# is up, the run saves and ends, and the job goes back into the queue, where it goes on.
#
#   sbatch --nodes=2 --ntasks-per-node=1 --gres=gpu:4 --time=8:00:00 scripts/slurm.sh runs/mine train platform --meta.steps=500
#
# The first word is the run folder, which all hosts must see; the rest are words of `mamba-eco`, which must be on PATH. For a
# sweep as an array of jobs, `mamba-eco sweep FILE --slurm N` writes a script of its own.
set -u

if [ "$#" -lt 2 ]; then
  echo "slurm.sh: give a run folder and a command, such as: sbatch scripts/slurm.sh runs/mine train platform" >&2
  exit 2
fi
folder=$1
shift
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "slurm.sh: this is no Slurm job; start it with sbatch, or run: mamba-eco $* --run_dir $folder" >&2
  exit 2
fi

srun mamba-eco "$@" --run_dir "$folder"
status=$?
# A run that was told to stop has ended in good order, too, and says so in its folder: the summary there may be that of an
# earlier job. One that was told while it started, before it listens, has died of USR2 (128 + 12) and lost nothing.
if [ "$status" -eq 140 ] || { [ "$status" -eq 0 ] && [ -e "$folder/.stopped" ]; }; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
