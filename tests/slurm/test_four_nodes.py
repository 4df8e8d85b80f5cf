"""Four nodes train as one process does, and other jobs have nothing to do with it."""

import socket
from datetime import timedelta

import numpy as np
from jobs import ROOT, assert_same_run

from stvit_video.data.synthetic.files import MotionRecipe, make_motion_dataset
from stvit_video.runtime.rendezvous import Rendezvous

CLIPS, EPOCHS, STEPS = 16, 4, 5


def test_four_nodes_train_as_one_process(launch, tmp_path):
    recipe = MotionRecipe(train=CLIPS * STEPS, val=8, test=8)
    make_motion_dataset(tmp_path, recipe, num_workers=2)
    jobs = [
        launch(
            f"motion on {nodes}",
            *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "TRAIN.BATCH_SIZE", str(CLIPS // nodes)),
            *("SOLVER.MAX_EPOCH", str(EPOCHS), "TRAIN.EVAL_PERIOD", str(EPOCHS)),
            *("LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "1", "TENSORBOARD.ENABLE", "False"),
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


def test_a_job_passes_over_a_port_that_is_taken(launch, whole):
    job_id = int(whole.cluster.run("sbatch", "--parsable", "--hold", "--wrap=true")) + 1
    whole.cluster.run("scancel", str(job_id - 1))
    env = {"SLURM_JOB_ID": str(job_id), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    ports = Rendezvous.of_slurm(env).ports
    other = Rendezvous(owner="another job", addresses=("127.0.0.1",), ports=ports[:1])
    with other.meeting(is_first=True, timeout=timedelta(minutes=2)) as store:
        before = store.underlying_store.num_keys()
        with socket.create_server(("", ports[1])):
            job = launch("ports")
            assert job.id == str(job_id)
            job.wait()
        assert store.underlying_store.num_keys() == before
    assert_same_run(job, whole)
