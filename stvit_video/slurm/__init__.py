"""Plan, check, submit, run, requeue and monitor jobs on a SLURM cluster."""
