"""Parsing the output of SLURM's commands, and checking requests against partitions."""

import dataclasses

import pytest

from stvit_video.errors import UserError
from stvit_video.slurm.plan import Request
from stvit_video.slurm.preflight import check_request
from stvit_video.slurm.scontrol import (
    SlurmUnavailableError,
    check_slurm,
    count_gpus,
    parse_fields,
    read_job,
    read_partitions,
)

REQUEST = Request(nodes=4, gpus_per_node=0, tasks_per_node=1, cpus_per_task=1, minutes=720)


def test_values_may_contain_spaces():
    assert parse_fields("JobName=a b MinMemory=0 Nodes=n[1-4] Licenses=(null) Power=") == {
        "JobName": "a b",
        "MinMemory": "0",
        "Nodes": "n[1-4]",
        "Licenses": "(null)",
        "Power": "",
    }


def test_partitions(fake_slurm):
    debug, long, old, secret = read_partitions()
    assert (debug.name, debug.is_default, debug.is_up) == ("debug", True, True)
    assert (debug.max_minutes, debug.max_nodes) == (2880, 4)
    assert (long.is_default, long.max_minutes, long.max_nodes) == (False, None, 2)
    assert not old.is_up
    assert [one.is_hidden for one in (debug, long, old, secret)] == [False, False, False, True]
    assert [(one.node_cpus, one.node_gpus) for one in (debug, long, old, secret)] == [
        (8, 2),
        (16, 9),
        (None, 0),
        (32, 8),
    ]


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ("(null)", 0),
        ("gpu", 1),
        ("gpu:4", 4),
        ("gpu:a100:8", 8),
        ("gpu:8(S:0-1)", 8),
        ("mps:400,gpu:h100:2(S:0,1),gpu:v100:1", 3),
        ("craynetwork:4", 0),
    ],
)
def test_gpus_among_the_resources_of_a_node(resources, gpus):
    assert count_gpus(resources) == gpus


@pytest.mark.parametrize(
    ("state", "is_over"),
    [
        *((state, False) for state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")),
        *((state, True) for state in ("COMPLETED", "FAILED", "PREEMPTED", "TIMEOUT", "NODE_FAIL")),
    ],
)
def test_jobs(fake_slurm, state, is_over):
    fake_slurm.set_job("7", state, output="/a b/7_0_log.out", restarts=3)
    job = read_job("7")
    assert (job.state, job.reason, job.restarts) == (state, "Resources", 3)
    assert job.output == "/a b/7_0_log.out"
    assert job.is_over == is_over


def test_a_job_that_slurm_does_not_know(fake_slurm):
    assert read_job("8") is None


def test_an_unavailable_controller_is_reported(fake_slurm):
    (fake_slurm.folder / "scontrol").write_text(
        "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    with pytest.raises(SlurmUnavailableError, match="Unable to contact"):
        read_partitions()
    with pytest.raises(SlurmUnavailableError, match="Unable to contact"):
        read_job("7")


def test_a_machine_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no sbatch in PATH.*--local"):
        check_slurm()


def test_a_request_that_fits(fake_slurm):
    assert check_request(REQUEST, read_partitions()) == REQUEST
    check_request(dataclasses.replace(REQUEST, partition="debug"), read_partitions())


def test_a_default_time_limit_is_lowered_to_the_partitions(fake_slurm):
    request = dataclasses.replace(REQUEST, minutes=9999, is_time_given=False)
    assert check_request(request, read_partitions()).minutes == 2880
    request = dataclasses.replace(request, nodes=2, partition="long")
    assert check_request(request, read_partitions()).minutes == 9999


def test_a_hidden_partition(fake_slurm):
    request = dataclasses.replace(REQUEST, nodes=8, gpus_per_node=8, partition="secret")
    assert check_request(request, read_partitions()) == request


def test_one_fitting_partition_is_enough(fake_slurm):
    request = dataclasses.replace(REQUEST, partition="old,long,debug")
    assert check_request(request, read_partitions()) == request


@pytest.mark.parametrize(
    ("partition", "nodes", "minutes"),
    [("debug,secret", 4, 1440), ("long,debug", 2, 2880), ("long,debug", 4, 2880)],
)
def test_the_lowest_limit_of_several_partitions_applies(fake_slurm, partition, nodes, minutes):
    request = dataclasses.replace(
        REQUEST, nodes=nodes, minutes=9999, is_time_given=False, partition=partition
    )
    fitted = check_request(request, read_partitions())
    assert (fitted.minutes, fitted.partition) == (minutes, partition)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"partition": "debug,x,y"}, "no partition x, y; this cluster has debug, long, old$"),
        ({"partition": "long,old"}, "--nodes must be at most 2.*; partition old is not up"),
        ({"partition": "gpu"}, "no partition gpu; this cluster has debug, long, old"),
        ({"minutes": 2881}, "--time must be at most 2-00:00:00.* debug, but it is 2-00:01:00"),
        ({"nodes": 5}, "--nodes must be at most 4.* but it is 5"),
        ({"partition": "long", "nodes": 3}, "--nodes must be at most 2"),
        ({"gpus_per_node": 3}, "--gpus-per-node must be at most 2"),
        ({"tasks_per_node": 3, "cpus_per_task": 3}, "has 8 cores, but 3 ranks of 3 need 9"),
        ({"partition": "old"}, "partition old is not up"),
    ],
)
def test_requests_that_do_not_fit(fake_slurm, change, sentence):
    with pytest.raises(UserError, match=sentence):
        check_request(dataclasses.replace(REQUEST, **change), read_partitions())


def test_a_cluster_without_a_default_partition(fake_slurm):
    with pytest.raises(UserError, match="name one of long, old with --partition"):
        check_request(REQUEST, read_partitions()[1:])
