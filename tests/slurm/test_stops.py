"""A job that is stopped in any of SLURM's ways goes on as if nothing had been."""

from jobs import assert_same_run


def test_a_signal_requeues_once_however_many_arrive(cluster, launch, whole):
    job = launch("usr2")
    job.wait_for_step(4)
    for _ in range(5):
        cluster.run("scancel", "--signal=USR2", job.id)
    job.wait()
    assert job.facts.restarts == 1
    assert_same_run(job, whole)
