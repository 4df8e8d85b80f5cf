"""Running a function on all ranks; the other questions about ranks are answered here too."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from stvit_video.errors import UserError
from stvit_video.runtime.group import (
    all_reduce_sum,
    any_rank,
    barrier,
    broadcast_object,
    broadcast_tensors,
    device,
    gather_objects,
    get_local_rank,
    get_rank,
    get_world_size,
    is_lost_contact,
    is_main,
    membership,
)
from stvit_video.runtime.launch import (
    Launch,
    check_gpus,
    resolve_backend,
    resolve_device,
)
from stvit_video.runtime.rendezvous import LOOPBACK
from stvit_video.runtime.spawn import RankError, spawn_ranks

__all__ = [
    "Launch",
    "RankError",
    "all_reduce_sum",
    "any_rank",
    "barrier",
    "broadcast_object",
    "broadcast_tensors",
    "device",
    "gather_objects",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "is_lost_contact",
    "is_main",
    "resolve_device",
    "run_ranks",
]

A = TypeVar("A")

_TIMEOUT = timedelta(minutes=30)


def run_ranks(
    fn: Callable[[A], Any],
    arg: A,
    *,
    num_local_ranks: int,
    num_shards: int = 1,
    shard_id: int = 0,
    init_method: str = "",
    device: str = "cpu",
    backend: str = "auto",
    timeout: timedelta = _TIMEOUT,
    identity: str = "",
) -> None:
    """Run ``fn(arg)`` on every rank of this machine and wait until all are done.

    Under torchrun, or as one of several tasks under srun, this process is one rank. Otherwise
    it starts the ranks; if there is but one in all, that is this process itself.

    Args:
        fn: an importable function, because spawned processes import it.
        arg: its argument, picklable.
        num_local_ranks: ranks of this machine, NUM_GPUS.
        num_shards: machines, NUM_SHARDS.
        shard_id: index of this machine, SHARD_ID.
        init_method: where the machines meet, "tcp://HOST:PORT" of the first one; not needed on
            one machine, nor under torchrun or srun.
        device: "cuda" or "cpu", as ``resolve_device`` gives it.
        backend: "nccl", "gloo" or "auto", DIST_BACKEND.
        timeout: how long a rank waits for the others, at the start and in each collective.
        identity: what must be the same on all ranks, such as a hash of the config.

    Raises:
        UserError: a rank raised one, or the ranks cannot be started as asked or do not fit
            together.
        RankError: a spawned rank failed in another way.
    """
    first = Launch(
        rank=shard_id * num_local_ranks,
        local_rank=0,
        world_size=num_shards * num_local_ranks,
        local_world_size=num_local_ranks,
        init_method=init_method,
        backend=resolve_backend(backend, device=device),
        device_type=device,
    )
    started = first.placed_by(os.environ)
    if started or first.world_size == 1:
        _run_rank(started or first, fn=fn, arg=arg, timeout=timeout, identity=identity)
        return
    if device == "cuda":
        check_gpus(num_local_ranks)
    if num_shards > 1 and not init_method:
        raise UserError(
            f"NUM_SHARDS is {num_shards}, and so many machines need a place to meet: add "
            "--init_method tcp://HOST:PORT to each, HOST being that of shard 0"
        )
    if not init_method:
        # Kept here, the store needs no port that another program could take in between.
        store = dist.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
        first = replace(first, store_port=store.port)
    run = partial(_run_local_rank, first=first, fn=fn, arg=arg, timeout=timeout, identity=identity)
    spawn_ranks(run, num_processes=num_local_ranks)


def _run_local_rank(
    local_rank: int, *, first: Launch, fn: Callable[[A], Any], arg: A, **membership_of: Any
) -> None:
    _run_rank(first.of_local_rank(local_rank), fn=fn, arg=arg, **membership_of)


def _run_rank(launch: Launch, *, fn: Callable[[A], Any], arg: A, **membership_of: Any) -> None:
    with membership(launch, **membership_of):
        fn(arg)
