"""What a job of a cluster does in its ranks and in its batch script, besides training itself.

The part of it that queues jobs is ``slurm/launch.py``.
"""
