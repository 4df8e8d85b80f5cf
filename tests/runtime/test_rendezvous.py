"""Ranks of a SLURM job meet each other, and nobody else."""

import os
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
import torch.distributed as dist

from stvit_video.errors import UserError
from stvit_video.runtime import distributed, rendezvous
from stvit_video.runtime.distributed import join_ranks
from stvit_video.runtime.launch import Launch
from stvit_video.runtime.process import spawn_ranks
from stvit_video.runtime.rendezvous import MeetingError, Rendezvous

SHORT = timedelta(seconds=1)


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


def at(*ports, owner="job 7, step 0, restart 0"):
    return Rendezvous(owner=owner, addresses=("127.0.0.1",), ports=ports)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE_SECONDS", 0.3)


def as_first(place):
    return place.meeting(is_first=True, timeout=SHORT)


def as_second(place):
    return place.meeting(is_first=False, timeout=SHORT)


def test_ranks_find_the_store_of_their_job():
    place = at(*free_ports(1))
    with as_first(place) as first, as_second(place) as second:
        first.set("number", "1")
        assert second.get("number") == b"1"
    # Another meeting of the same job finds the port free, and not what was before.
    with as_first(place) as first, as_second(place) as second:
        assert not second.check(["number"])
        first.set("other", "2")
        assert second.get("other") == b"2"


def test_srun_may_be_called_where_no_rank_is():
    """On a login node, whose address comes first and may not answer; here nobody has it."""
    place = replace(at(*free_ports(1)), addresses=("203.0.113.7", "127.0.0.1"))
    with as_first(place) as first, as_second(place) as second:
        first.set("number", "1")
        assert second.get("number") == b"1"


@contextmanager
def silent_program(port):
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextmanager
def talking_program(port):
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        talk = (listener, b"220 welcome\n" * 500, ended)
        thread = threading.Thread(target=rendezvous._announce, args=talk)
        thread.start()
        yield
        ended.set()
        thread.join()


@contextmanager
def other_job(port):
    with as_first(at(port, owner="job 8, step 0, restart 0")):
        yield


@pytest.mark.parametrize("taken_by", [silent_program, talking_program, other_job])
def test_a_port_that_is_taken_is_passed_over(taken_by):
    ports = free_ports(2)
    with (
        taken_by(ports[0]),
        as_first(at(*ports)) as first,
        as_second(at(*ports)) as second,
    ):
        first.set("number", "1")
        assert second.get("number") == b"1"


@pytest.mark.parametrize("owner", ["job 8, step 0, restart 0", "job 7, step 0, restart 1"])
def test_two_jobs_that_are_forced_onto_one_port_never_meet(owner):
    (port,) = free_ports(1)
    ours = at(port, owner=owner)
    with as_first(at(port)) as theirs:
        theirs.set("number", "1")
        sentence = f"none of the ports {port} is free .* of {owner}"
        with pytest.raises(MeetingError, match=sentence), as_first(ours):
            pass
        sentence = f"rank 0 of {owner} was not found .* ports {port}, in 1 s, only job 7, step 0"
        with pytest.raises(MeetingError, match=sentence), as_second(ours):
            pass
        # Even one that had joined would find none of the other's keys.
        assert not dist.PrefixStore(owner, theirs.underlying_store).check(["number"])


def join(rank, *, launch, same):
    mine = "config a" if same or rank == 0 else "config b"
    with join_ranks(launch.of_local_rank(rank), timeout=timedelta(seconds=60), identity=mine):
        assert distributed.all_reduce_sum([1.0]) == [2.0]


@pytest.mark.parametrize("same", [True, False])
def test_ranks_with_different_configs_stop(same):
    launch = Launch(
        rank=0,
        local_rank=0,
        world_size=2,
        local_world_size=2,
        init_method="",
        backend="gloo",
        device_type="cpu",
        rendezvous=at(*free_ports(2)),
    )
    start = partial(spawn_ranks, partial(join, launch=launch, same=same), num_processes=2)
    if same:
        start()
        return
    with pytest.raises(UserError, match=r"of one job .* rank 0 are .*config a.* 1 are .*config b"):
        start()


def meet_twice(rank, *, init_method, env):
    """Join two groups, each time looking for what was left in the store of the other."""
    os.environ |= env
    launch = Launch(
        rank=rank,
        local_rank=rank,
        world_size=2,
        local_world_size=2,
        init_method=init_method,
        backend="gloo",
        device_type="cpu",
    )
    for _ in range(2):
        with join_ranks(launch, timeout=timedelta(seconds=60)):
            store = dist.distributed_c10d._get_default_store()
            assert distributed.gather_objects(store.check(["left behind"])) == [False, False]
            store.set("left behind", "1")


def test_a_group_finds_nothing_of_the_one_before_in_the_store_of_torchrun():
    """NCCL's id would be found again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    env["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    spawn_ranks(partial(meet_twice, init_method="env://", env=env), num_processes=2)


def test_groups_meet_at_one_address_one_after_the_other():
    where = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    spawn_ranks(partial(meet_twice, init_method=where, env={}), num_processes=2)


def test_errors_by_which_others_are_lost_are_told_from_own_ones():
    gloo = RuntimeError("[/pytorch/third_party/gloo/pair.cc:547] Connection closed by peer")
    not_met = UserError("rank 1 has not met the others")
    not_met.__cause__ = MeetingError("none of the ports is free")
    assert all(map(distributed.is_lost_contact, (gloo, not_met, dist.DistBackendError("nccl"))))
    for own in (RuntimeError("shapes differ"), UserError("no label"), KeyError("a")):
        assert not distributed.is_lost_contact(own)


ENV = {
    "SLURM_JOB_ID": "12007",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_STEP_NODELIST": "no-such-node[1-4]",
}


def test_the_place_follows_from_the_job():
    place = Rendezvous.of_slurm(ENV)
    assert place.owner == "job 12007, step 0, restart 0"
    assert place.addresses == ("10.0.0.1",)
    assert place.ports[:2] == (20007, 21016)
    assert all(20000 <= port < 32000 for port in place.ports)
    again = Rendezvous.of_slurm({**ENV, "SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "1"})
    assert again == replace(place, owner="job 12007, step 1, restart 2")
    # Jobs that are queued together do not take each other's ports.
    others = (Rendezvous.of_slurm({**ENV, "SLURM_JOB_ID": str(12007 + n)}) for n in range(1, 100))
    assert not set(place.ports).intersection(port for other in others for port in other.ports)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n[1-4]", "n1"), ("a,b[2-3]", "a"), ("r[01-03,7]n2,b", "r01n2"), ("r[01,07]n[3]", "r01n3")],
)
def test_without_an_address_the_first_node_is_looked_up(monkeypatch, nodes, first):
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": nodes}
    monkeypatch.setattr(socket, "gethostbyname", {first: "10.0.0.9"}.__getitem__)
    assert Rendezvous.of_slurm(env).addresses == ("10.0.0.9",)


def test_a_node_that_cannot_be_found_is_a_sentence():
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "no-such-node.invalid"}
    with pytest.raises(UserError, match=re.escape('(the first of "no-such-node.invalid" does')):
        Rendezvous.of_slurm(env)
