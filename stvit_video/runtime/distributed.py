"""Run a function on all ranks, and exchange values between them.

Everything works with one rank too, which has no process group: it is then rank 0 of 1.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stvit_video.errors import UserError
from stvit_video.runtime.launch import (
    Launch,
    check_gpus,
    cpu_threads,
    resolve_backend,
)
from stvit_video.runtime.process import keep_freed_memory, spawn_ranks
from stvit_video.runtime.rendezvous import LOOPBACK, MeetingError

A = TypeVar("A")
T = TypeVar("T")

ShouldStop = Callable[[], bool]


def avoid_planned_attention() -> None:
    """Keep attention on a GPU off cuDNN, which plans anew for every shape it meets.

    Newer GPUs prefer it, and a plan takes up to a second: much, where windows at the border,
    images of many sizes or clips of several lengths make many shapes. The kernels that remain
    need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


# The launch of this process while it is a member; torch.distributed knows its rank, but neither
# the local rank nor the device.
_launch: Launch | None = None
# Of the groups that this process has joined; every rank joins the same ones in the same order.
_group_numbers = count()


@contextmanager
def join_ranks(launch: Launch, *, timeout: timedelta, identity: str = "") -> Iterator[None]:
    """Be the rank that ``launch`` says: join the others at the start, part from them at the end.

    A rank that fails keeps its process group: taking it down could wait for the others, and the
    process is about to end.

    Args:
        launch: the place of this process among the ranks.
        timeout: how long to wait for the others, at the start and in each collective.
        identity: what must be the same on all ranks.

    Raises:
        UserError: the ranks do not meet, or are not of one job with one identity.
    """
    global _launch
    if launch.device_type == "cuda":
        torch.cuda.set_device(launch.gpu)
        avoid_planned_attention()
    else:
        keep_freed_memory()
        if launch.local_world_size > 1:
            threads = cpu_threads(local_world_size=launch.local_world_size, cpus=launch.cpus)
            torch.set_num_threads(threads)
    _launch = launch
    try:
        if launch.world_size > 1:
            _join(launch, timeout=timeout, identity=identity)
        yield
    finally:
        _launch = None
    if launch.world_size > 1:
        # Rank 0 may keep the store that the others still need.
        dist.barrier()
        dist.destroy_process_group()


def get_rank() -> int:
    """Index of this process among all ranks."""
    return _launch.rank if _launch else 0


def get_local_rank() -> int:
    """Index of this process among the ranks of this machine."""
    return _launch.local_rank if _launch else 0


def get_world_size() -> int:
    """Number of all ranks."""
    return _launch.world_size if _launch else 1


def is_main() -> bool:
    """Whether this is rank 0, which alone writes logs, checkpoints and results."""
    return get_rank() == 0


def device() -> torch.device:
    """Device of this rank: its GPU, or the CPU."""
    if _launch and _launch.device_type == "cuda":
        return torch.device("cuda", _launch.gpu)
    return torch.device("cpu")


def barrier() -> None:
    """Wait until every rank is here."""
    if get_world_size() > 1:
        dist.barrier()


def is_lost_contact(error: Exception) -> bool:
    """Whether an error says that other ranks did not answer, or not in time."""
    if isinstance(error.__cause__, MeetingError | dist.DistError):
        return True
    # What gloo raises is a RuntimeError, and autograd may wrap it in another one.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Add up each of ``values`` over all ranks, in float64; every rank gets the sums."""
    if get_world_size() == 1:
        return [float(value) for value in values]
    on_gpu = dist.get_backend() == "nccl"
    sums = torch.tensor(values, dtype=torch.float64, device=device() if on_gpu else "cpu")
    dist.all_reduce(sums)
    return sums.tolist()


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on at least one rank; every rank gets the same answer."""
    return all_reduce_sum([float(flag)])[0] > 0


def gather_objects(obj: T) -> list[T]:
    """Return the picklable objects of all ranks, in the order of the ranks, on every rank."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def broadcast_object(obj: T) -> T:
    """Return rank 0's object, which must be picklable, on every rank."""
    if get_world_size() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors, which have the same shapes on all ranks, by those of rank 0."""
    if get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def _join(launch: Launch, *, timeout: timedelta, identity: str) -> None:
    if launch.is_on_one_machine:
        # Else gloo looks up the host's name, which may lead nowhere or to a guarded interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    try:
        with _store(launch, timeout=timeout) as store:
            dist.init_process_group(
                launch.backend,
                store=store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timeout,
                device_id=device() if launch.backend == "nccl" else None,
            )
            _check_identities(launch, identity)
    except MeetingError as error:
        raise UserError(f"rank {launch.rank} has not met the others: {error}") from error
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"all {launch.world_size} ranks must meet at {launch.init_method or LOOPBACK}, but "
            f"rank {launch.rank} could not ({reason}): start every machine with the same "
            "NUM_SHARDS and --init_method, its own --shard_id, and a port that is free"
        ) from error


def _store(launch: Launch, *, timeout: timedelta) -> AbstractContextManager[dist.Store]:
    """Return where the ranks meet."""
    if launch.rendezvous:
        return launch.rendezvous.meeting(is_first=launch.rank == 0, timeout=timeout)
    if launch.store_port:
        return nullcontext(
            dist.TCPStore(LOOPBACK, launch.store_port, is_master=False, timeout=timeout)
        )
    store = _lasting_store(launch.init_method, launch.rank, launch.world_size, timeout)
    # Else a rank could take what the group before has left there for its own: NCCL's id lies
    # under the same key in both.
    return nullcontext(dist.PrefixStore(f"group {next(_group_numbers)}", store))


@cache
def _lasting_store(init_method: str, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Open the store at an address of torch.distributed, once for all groups of this process.

    torchrun's outlives the groups. That of rank 0 must too: at the same address, a rank that
    joins the next group could find the store of the last one, which is about to close.
    """
    store, _, _ = next(dist.rendezvous(init_method, rank, world_size, timeout=timeout))
    store.set_timeout(timeout)
    return store


def _check_identities(launch: Launch, identity: str) -> None:
    own = (launch.rendezvous.owner if launch.rendezvous else "", identity)
    identities = gather_objects(own)
    for rank, other in enumerate(identities):
        if other != identities[0]:
            raise UserError(
                "all ranks must be of one job and have the same config, but those of rank 0 are "
                f"{identities[0]} and those of rank {rank} are {other}: start each run by itself, "
                "with the same files on all machines"
            )


def _loopback_interface() -> str:
    """Name of the loopback interface: lo on Linux, lo0 on macOS."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


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
    with join_ranks(launch, **membership_of):
        fn(arg)


def never() -> bool:
    """Say that nobody asks for a stop."""
    return False


def on_any_rank(should_stop: ShouldStop) -> ShouldStop:
    """Return a question that all ranks ask together: whether one of them was asked to stop."""
    if should_stop is never:
        return never
    return lambda: any_rank(should_stop())


def until(batches: Iterable[T], should_stop: ShouldStop) -> Iterator[T]:
    """Yield batches until ``should_stop`` says so; it must go on saying so from then on."""
    for batch in batches:
        if should_stop():
            return
        yield batch


def broadcast_running_statistics(model: nn.Module) -> None:
    """Overwrite running statistics by rank 0's, which a checkpoint has; every rank must call this.

    Those of an ordinary batch norm are of a rank's own clips.
    """
    broadcast_tensors(
        statistic
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for statistic in module.buffers()
    )
