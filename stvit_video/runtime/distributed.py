"""Run a function on all ranks, and communicate between them.

Everything works with a single rank too, which is rank 0 of 1 and has no process group.
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
from stvit_video.runtime.launch import Launch, check_gpus, num_cpu_threads, resolve_backend
from stvit_video.runtime.process import keep_freed_memory, spawn_ranks
from stvit_video.runtime.rendezvous import LOOPBACK, RendezvousError

A = TypeVar("A")
T = TypeVar("T")

ShouldStop = Callable[[], bool]

_TIMEOUT = timedelta(minutes=30)

# The launch of this process while it is in ``join_ranks``. torch.distributed knows the rank, but
# neither the local rank nor the device.
_launch: Launch | None = None
# Numbers the process groups that this process joins; all ranks join the same ones in one order.
_group_ids = count()


@contextmanager
def join_ranks(launch: Launch, *, timeout: timedelta, identity: str = "") -> Iterator[None]:
    """Join the process group as the rank of ``launch``, and leave it at the end.

    If the block raises, the process group is not destroyed: that could wait for the other ranks,
    and the process is about to exit.

    Args:
        launch: the place of this process among the ranks.
        timeout: how long to wait for other ranks, at the start and in each collective.
        identity: a string that must be equal on all ranks.

    Raises:
        UserError: the ranks do not find each other, or differ in their job or identity.
    """
    global _launch
    if launch.device_type == "cuda":
        torch.cuda.set_device(launch.gpu)
        disable_cudnn_attention()
    else:
        keep_freed_memory()
        if launch.local_world_size > 1:
            torch.set_num_threads(
                num_cpu_threads(local_world_size=launch.local_world_size, cpus=launch.cpus)
            )
    _launch = launch
    try:
        if launch.world_size > 1:
            _init_process_group(launch, timeout=timeout, identity=identity)
        yield
    finally:
        _launch = None
    if launch.world_size > 1:
        # Rank 0 may host the store, which the other ranks need until they are done.
        dist.barrier()
        dist.destroy_process_group()


def disable_cudnn_attention() -> None:
    """Keep cuDNN from computing attention, because it builds a plan for each new shape.

    PyTorch prefers cuDNN on newer GPUs. A plan takes up to a second, which adds up with many
    shapes: windows at the border, images of many sizes, clips of several lengths. The other
    attention kernels need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def _init_process_group(launch: Launch, *, timeout: timedelta, identity: str) -> None:
    if launch.is_on_one_machine:
        # By default gloo resolves the host name, which may fail or give a firewalled interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    try:
        with _open_store(launch, timeout=timeout) as store:
            dist.init_process_group(
                launch.backend,
                store=store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timeout,
                device_id=device() if launch.backend == "nccl" else None,
            )
            _check_identities(launch, identity)
    except RendezvousError as error:
        raise UserError(f"rank {launch.rank} did not find the other ranks: {error}") from error
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"all {launch.world_size} ranks must connect to {launch.init_method or LOOPBACK}, but "
            f"rank {launch.rank} could not ({reason}): start every machine with the same "
            "NUM_SHARDS and --init_method, its own --shard_id, and a free port"
        ) from error


def _loopback_interface() -> str:
    """Return the name of the loopback interface: lo on Linux, lo0 on macOS."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def _open_store(launch: Launch, *, timeout: timedelta) -> AbstractContextManager[dist.Store]:
    """Return a context manager that gives the store where the ranks meet."""
    if launch.rendezvous:
        return launch.rendezvous.open_store(is_main=launch.rank == 0, timeout=timeout)
    if launch.store_port:
        return nullcontext(
            dist.TCPStore(LOOPBACK, launch.store_port, is_master=False, timeout=timeout)
        )
    store = _persistent_store(launch.init_method, launch.rank, launch.world_size, timeout)
    # Without a prefix, a rank could read a key of the previous group: NCCL stores its id under the
    # same key in each group.
    return nullcontext(dist.PrefixStore(f"group {next(_group_ids)}", store))


@cache
def _persistent_store(
    init_method: str, rank: int, world_size: int, timeout: timedelta
) -> dist.Store:
    """Open the store at a torch.distributed URL once, for all groups of this process.

    The store of torchrun outlives the groups, and that of rank 0 must too: otherwise a rank that
    joins the next group at the same address could connect to the previous store as it closes.
    """
    store, _, _ = next(dist.rendezvous(init_method, rank, world_size, timeout=timeout))
    store.set_timeout(timeout)
    return store


def _check_identities(launch: Launch, identity: str) -> None:
    owner = launch.rendezvous.owner if launch.rendezvous else ""
    identities = gather_objects((owner, identity))
    for rank, other in enumerate(identities):
        if other != identities[0]:
            raise UserError(
                "all ranks must belong to one job and have the same config, but rank 0 has "
                f"{identities[0]} and rank {rank} has {other}: start each run separately, with "
                "the same files on all machines"
            )


def get_rank() -> int:
    """Return the index of this process among all ranks."""
    return _launch.rank if _launch else 0


def get_local_rank() -> int:
    """Return the index of this process among the ranks on this machine."""
    return _launch.local_rank if _launch else 0


def get_world_size() -> int:
    """Return the number of ranks."""
    return _launch.world_size if _launch else 1


def is_main() -> bool:
    """Whether this is rank 0, the only rank that writes logs, checkpoints and results."""
    return get_rank() == 0


def device() -> torch.device:
    """Return the device of this rank: its GPU, or the CPU."""
    if _launch and _launch.device_type == "cuda":
        return torch.device("cuda", _launch.gpu)
    return torch.device("cpu")


def barrier() -> None:
    """Wait until all ranks have reached this point."""
    if get_world_size() > 1:
        dist.barrier()


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Return the sum of each of ``values`` over all ranks, in float64, on every rank."""
    if get_world_size() == 1:
        return [float(value) for value in values]
    on_gpu = dist.get_backend() == "nccl"
    sums = torch.tensor(values, dtype=torch.float64, device=device() if on_gpu else "cpu")
    dist.all_reduce(sums)
    return sums.tolist()


def any_rank(flag: bool) -> bool:
    """Return on every rank whether ``flag`` is true on at least one rank."""
    return all_reduce_sum([float(flag)])[0] > 0


def gather_objects(obj: T) -> list[T]:
    """Return the picklable objects of all ranks, in rank order, on every rank."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def broadcast_object(obj: T) -> T:
    """Return the picklable object of rank 0 on every rank."""
    if get_world_size() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_running_statistics(model: nn.Module) -> None:
    """Overwrite the running statistics of batch norms with those of rank 0. All ranks must call it.

    Each rank updates the running statistics of its batch norms with its own clips, unless they are
    synchronized. A checkpoint contains those of rank 0.
    """
    if get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for statistic in module.buffers():
                dist.broadcast(statistic, src=0)


def is_connection_error(error: Exception) -> bool:
    """Whether an error means that other ranks did not answer, or not in time."""
    if isinstance(error.__cause__, RendezvousError | dist.DistError):
        return True
    # gloo raises a RuntimeError, and autograd may wrap it in another one.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def never() -> bool:
    """Return False, as the default of ``should_stop``."""
    return False


def on_any_rank(should_stop: ShouldStop) -> ShouldStop:
    """Return a collective version of ``should_stop``: whether it is true on at least one rank."""
    if should_stop is never:
        return never
    return lambda: any_rank(should_stop())


def until(batches: Iterable[T], should_stop: ShouldStop) -> Iterator[T]:
    """Yield batches until ``should_stop()`` is true; it must stay true from then on."""
    for batch in batches:
        if should_stop():
            return
        yield batch


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

    Under torchrun, or as one of several tasks under srun, this process is one rank. Otherwise it
    spawns the ranks, or is the rank itself if there is only one in total.

    Args:
        fn: an importable function, because spawned processes import it.
        arg: its argument, picklable.
        num_local_ranks: number of ranks on this machine, NUM_GPUS.
        num_shards: number of machines, NUM_SHARDS.
        shard_id: index of this machine, SHARD_ID.
        init_method: where the machines meet, "tcp://HOST:PORT" of the first one. Not needed on
            one machine, nor under torchrun or srun.
        device: "cuda" or "cpu", as returned by ``resolve_device``.
        backend: "nccl", "gloo" or "auto", DIST_BACKEND.
        timeout: how long to wait for other ranks, at the start and in each collective.
        identity: a string that must be equal on all ranks, such as a hash of the config.

    Raises:
        UserError: a rank raised one, or the ranks cannot be started as requested or do not belong
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
    launched = first.from_launcher(os.environ)
    if launched or first.world_size == 1:
        _run_rank(launched or first, fn=fn, arg=arg, timeout=timeout, identity=identity)
        return
    if device == "cuda":
        check_gpus(num_local_ranks)
    if num_shards > 1 and not init_method:
        raise UserError(
            f"NUM_SHARDS above 1 needs an address where the machines meet, but it is {num_shards}: "
            "start each machine with --init_method tcp://HOST:PORT, where HOST is that of shard 0"
        )
    if not init_method:
        # This process keeps the store, so no other program can take its port before the ranks do.
        store = dist.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
        first = replace(first, store_port=store.port)
    run = partial(_run_local_rank, first=first, fn=fn, arg=arg, timeout=timeout, identity=identity)
    spawn_ranks(run, num_processes=num_local_ranks)


def _run_local_rank(local_rank: int, *, first: Launch, **kwargs: Any) -> None:
    _run_rank(first.with_local_rank(local_rank), **kwargs)


def _run_rank(
    launch: Launch, *, fn: Callable[[A], Any], arg: A, timeout: timedelta, identity: str
) -> None:
    with join_ranks(launch, timeout=timeout, identity=identity):
        fn(arg)
