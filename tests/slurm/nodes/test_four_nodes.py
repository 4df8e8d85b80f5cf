"""Training on four nodes equals training in one process, and jobs do not affect each other."""

import socket

import numpy as np
from jobs import ROOT, assert_same_run, late_rank

from stvit_video.runtime.rendezvous import Rendezvous
from stvit_video.synthetic.motion import MotionRecipe, make_motion_dataset

CLIPS, EPOCHS, STEPS = 16, 4, 5
# Jobs whose ids differ by this number use the same ports.
NUM_PORTS = 12000


def test_four_nodes_train_as_one_process(launch, tmp_path):
    recipe = MotionRecipe(train=CLIPS * STEPS, val=8, test=8)
    make_motion_dataset(tmp_path, recipe, num_workers=2)
    jobs = [
        launch(
            f"motion on {nodes}",
            *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "TRAIN.BATCH_SIZE", str(CLIPS // nodes)),
            *("SOLVER.MAX_EPOCH", str(EPOCHS), "TRAIN.EVAL_PERIOD", str(EPOCHS)),
            *("LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "1", "TENSORBOARD.ENABLE", "False"),
            *("LOG_MODEL_INFO", "False", "TEST.NUM_ENSEMBLE_VIEWS", "1"),
            nodes=nodes,
            config=ROOT / "configs" / "demo" / "stvit_swin_motion.yaml",
        )
        for nodes in (1, 4)
    ]
    for job in jobs:
        job.wait()
    one, four = (job.result() for job in jobs)
    assert len(one["recent_losses"]) == EPOCHS * STEPS
    np.testing.assert_allclose(four["recent_losses"], one["recent_losses"], rtol=0, atol=1e-4)
    assert len(four["random_states"]) == 4
    tested = [next(line for line in job.lines() if line["_type"] == "test_final") for job in jobs]
    assert tested[0]["num_videos"] == tested[1]["num_videos"] == recipe.test


def test_two_jobs_on_one_port_never_exchange_a_number(launch, whole, cluster, tmp_path):
    """One job, whose rank 1 is late, listens on the port while the other one meets and trains."""
    overrides = ("RNG_SEED", "7", "SOLVER.MAX_EPOCH", "1")
    alone = launch("alone", *overrides)
    alone.wait()
    assert alone.lines()[0] != whole.lines()[0]
    with late_rank(tmp_path) as late:
        holding = launch("holding", flags=("--timeout-s", "600"))
    holding.wait_for_rank(0)
    cluster.configure(first_job=int(holding.id) + NUM_PORTS)
    ports = ports_of(holding)
    # The next port is taken by another program.
    with socket.create_server(("", ports[1])):
        passing = launch("passing", *overrides)
        assert ports_of(passing) == ports
        passing.wait_for_step(1)
        assert read_owner(ports[0]) == f"job {holding.id}, step 0, restart 0"
        late.let_go()
        for job in (holding, passing):
            job.wait()
    assert_same_run(holding, whole)
    assert_same_run(passing, alone)


def ports_of(job):
    env = {"SLURM_JOB_ID": job.id, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    return Rendezvous.from_slurm(env).ports


def read_owner(port):
    """Return the first line that a server sends to its clients."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        return connection.makefile().readline().strip()
