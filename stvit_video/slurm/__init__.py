"""Jobs on SLURM: their plan, submission, ranks, batch script, and what became of them."""
