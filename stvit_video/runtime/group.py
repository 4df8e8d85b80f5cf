"""The ranks as a group: which one this is, and what all of them have together.

Everything works with one rank too, which has no process group: it is then rank 0 of 1.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from stvit_video.errors import UserError
from stvit_video.runtime.allocator import keep_freed_memory
from stvit_video.runtime.attention_kernels import avoid_planned_attention
from stvit_video.runtime.launch import Launch, cpu_threads
from stvit_video.runtime.rendezvous import LOOPBACK, MeetingError

T = TypeVar("T")

# The launch of this process while it is a member; torch.distributed knows its rank, but neither
# the local rank nor the device.
_launch: Launch | None = None
# Of the groups that this process has joined; every rank joins the same ones in the same order.
_group_numbers = count()


@contextmanager
def membership(launch: Launch, *, timeout: timedelta, identity: str = "") -> Iterator[None]:
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
