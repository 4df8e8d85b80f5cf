"""Test that ranks of a SLURM job find each other, and no other job."""

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
from stvit_video.runtime.rendezvous import Rendezvous, RendezvousError

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


def make_rendezvous(*ports, owner="job 7, step 0, restart 0"):
    return Rendezvous(owner=owner, addresses=("127.0.0.1",), ports=ports)


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch):
    monkeypatch.setattr(rendezvous, "_SOCKET_TIMEOUT_SECONDS", 0.3)


def as_main(rendezvous):
    return rendezvous.open_store(is_main=True, timeout=SHORT)


def as_other(rendezvous):
    return rendezvous.open_store(is_main=False, timeout=SHORT)


def test_ranks_find_the_store_of_their_job():
    meeting = make_rendezvous(*free_ports(1))
    with as_main(meeting) as main_store, as_other(meeting) as other_store:
        main_store.set("number", "1")
        assert other_store.get("number") == b"1"
    # When the same job meets again, the port is free and the old keys are gone.
    with as_main(meeting) as main_store, as_other(meeting) as other_store:
        assert not other_store.check(["number"])
        main_store.set("other", "2")
        assert other_store.get("other") == b"2"


def test_srun_may_be_called_on_a_node_without_ranks():
    """A login node comes first and may not answer. Nobody has the address used here."""
    meeting = replace(make_rendezvous(*free_ports(1)), addresses=("203.0.113.7", "127.0.0.1"))
    with as_main(meeting) as main_store, as_other(meeting) as other_store:
        main_store.set("number", "1")
        assert other_store.get("number") == b"1"


@contextmanager
def silent_program(port):
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextmanager
def talking_program(port):
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        talk = (listener, b"220 welcome\n" * 500, stop)
        thread = threading.Thread(target=rendezvous._announce, args=talk)
        thread.start()
        yield
        stop.set()
        thread.join()


@contextmanager
def other_job(port):
    with as_main(make_rendezvous(port, owner="job 8, step 0, restart 0")):
        yield


@pytest.mark.parametrize("taken_by", [silent_program, talking_program, other_job])
def test_port_in_use_is_skipped(taken_by):
    ports = free_ports(2)
    with (
        taken_by(ports[0]),
        as_main(make_rendezvous(*ports)) as main_store,
        as_other(make_rendezvous(*ports)) as other_store,
    ):
        main_store.set("number", "1")
        assert other_store.get("number") == b"1"


@pytest.mark.parametrize("owner", ["job 8, step 0, restart 0", "job 7, step 0, restart 1"])
def test_two_jobs_on_one_port_stay_separate(owner):
    (port,) = free_ports(1)
    ours = make_rendezvous(port, owner=owner)
    with as_main(make_rendezvous(port)) as theirs:
        theirs.set("number", "1")
        sentence = f"none of the ports {port} is free .* of {owner}"
        with pytest.raises(RendezvousError, match=sentence), as_main(ours):
            pass
        sentence = (
            f"rank 0 of {owner} was not found .* ports {port}, within 1 s, only job 7, step 0"
        )
        with pytest.raises(RendezvousError, match=sentence), as_other(ours):
            pass
        # Even with the other job's store, the keys would not be found.
        assert not dist.PrefixStore(owner, theirs.underlying_store).check(["number"])


def join(rank, *, launch, same):
    identity = "config a" if same or rank == 0 else "config b"
    with join_ranks(launch.with_local_rank(rank), timeout=timedelta(seconds=60), identity=identity):
        assert distributed.all_reduce_sum([1.0]) == [2.0]


@pytest.mark.parametrize("same", [True, False])
def test_ranks_with_different_configs_raise(same):
    launch = Launch(
        rank=0,
        local_rank=0,
        world_size=2,
        local_world_size=2,
        init_method="",
        backend="gloo",
        device_type="cpu",
        rendezvous=make_rendezvous(*free_ports(2)),
    )
    start = partial(spawn_ranks, partial(join, launch=launch, same=same), num_processes=2)
    if same:
        start()
        return
    with pytest.raises(UserError, match=r"to one job .* rank 0 has .*config a.* 1 has .*config b"):
        start()


def join_twice(rank, *, init_method, env):
    """Join two groups, and check that the second sees no keys of the first."""
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


def test_groups_share_no_keys_in_the_store_of_torchrun():
    """A rank would read the NCCL id of the previous group."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    env["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    spawn_ranks(partial(join_twice, init_method="env://", env=env), num_processes=2)


def test_successive_groups_at_one_address():
    where = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    spawn_ranks(partial(join_twice, init_method=where, env={}), num_processes=2)


def test_is_connection_error():
    gloo = RuntimeError("[/pytorch/third_party/gloo/pair.cc:547] Connection closed by peer")
    not_found = UserError("rank 1 did not find the other ranks")
    not_found.__cause__ = RendezvousError("none of the ports is free")
    assert all(
        map(distributed.is_connection_error, (gloo, not_found, dist.DistBackendError("nccl")))
    )
    for own in (RuntimeError("shapes differ"), UserError("no label"), KeyError("a")):
        assert not distributed.is_connection_error(own)


ENV = {
    "SLURM_JOB_ID": "12007",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_STEP_NODELIST": "no-such-node[1-4]",
}


def test_rendezvous_from_slurm():
    meeting = Rendezvous.from_slurm(ENV)
    assert meeting.owner == "job 12007, step 0, restart 0"
    assert meeting.addresses == ("10.0.0.1",)
    assert meeting.ports[:2] == (20007, 21016)
    assert all(20000 <= port < 32000 for port in meeting.ports)
    again = Rendezvous.from_slurm({**ENV, "SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "1"})
    assert again == replace(meeting, owner="job 12007, step 1, restart 2")
    # Jobs with adjacent ids have different ports.
    others = (Rendezvous.from_slurm({**ENV, "SLURM_JOB_ID": str(12007 + n)}) for n in range(1, 100))
    assert not set(meeting.ports).intersection(port for other in others for port in other.ports)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n[1-4]", "n1"), ("a,b[2-3]", "a"), ("r[01-03,7]n2,b", "r01n2"), ("r[01,07]n[3]", "r01n3")],
)
def test_first_node_is_resolved_without_an_address(monkeypatch, nodes, first):
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": nodes}
    monkeypatch.setattr(socket, "gethostbyname", {first: "10.0.0.9"}.__getitem__)
    assert Rendezvous.from_slurm(env).addresses == ("10.0.0.9",)


def test_unresolvable_node_is_a_user_error():
    env = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "no-such-node.invalid"}
    with pytest.raises(
        UserError, match=re.escape('the first node of "no-such-node.invalid" has none')
    ):
        Rendezvous.from_slurm(env)
