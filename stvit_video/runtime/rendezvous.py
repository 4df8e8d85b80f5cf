"""Find the TCP store of rank 0 in a SLURM job, and no other job's store.

Jobs may share a node. Two jobs that took the same port once joined one process group and summed
each other's gradients without an error. So the ports to try follow from the job id, rank 0 takes
the next one if a port is in use, and it announces there whose store it keeps and the store's port.
(The store itself cannot be asked: its client waits forever if another program listens there.)
"""

import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from stvit_video.errors import UserError

LOOPBACK = "127.0.0.1"

# The range lies below the ports that Linux gives to outgoing connections. The ports of one job are
# far apart, because jobs with adjacent ids run at the same time.
_FIRST_PORT = 20000
_NUM_PORTS = 12000
_PORT_STRIDE = 1009
_PORTS_PER_JOB = 8
# Another program that listens on the port may never answer.
_SOCKET_TIMEOUT_SECONDS = 2.0
_POLL_SECONDS = 0.2
_MAX_ANSWER_CHARS = 1000


class RendezvousError(RuntimeError):
    """The ranks did not find each other. The message says where they looked."""


@dataclass(frozen=True)
class Rendezvous:
    """Addresses and ports where the ranks of a job find the store of rank 0.

    Attributes:
        owner: identifies the job: its id, its step, and the number of times it was requeued.
        addresses: of the node of rank 0, the most likely one first.
        ports: that rank 0 may use, in the order it tries them.
    """

    owner: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]

    @classmethod
    def from_slurm(cls, env: Mapping[str, str]) -> "Rendezvous":
        """Build a rendezvous from the environment variables that srun sets for a task."""
        job, step = env["SLURM_JOB_ID"], env.get("SLURM_STEP_ID", "0")
        restarts = env.get("SLURM_RESTART_COUNT") or "0"
        offsets = (int(job) + index * _PORT_STRIDE for index in range(_PORTS_PER_JOB))
        return cls(
            owner=f"job {job}, step {step}, restart {restarts}",
            addresses=_rank_0_addresses(env),
            ports=tuple(_FIRST_PORT + offset % _NUM_PORTS for offset in offsets),
        )

    @contextmanager
    def open_store(self, *, is_main: bool, timeout: timedelta) -> Iterator[dist.Store]:
        """Open the store of the job: rank 0 (``is_main``) creates it, the others find it.

        Rank 0 must stay in the block until all ranks have joined, because the others cannot find
        the store after it leaves.

        Raises:
            RendezvousError: no port is free, or the store was not found within ``timeout``.
        """
        if not is_main:
            yield self._find_store(timeout)
            return
        # The store listens on all interfaces. It is created at the loopback address because it
        # also connects to itself, and the first of ``addresses`` may be that of a login node.
        store = dist.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        stop = threading.Event()
        with self._listen() as listener:
            answer = f"{self.owner}\n{store.port}\n".encode()
            thread = threading.Thread(target=_announce, args=(listener, answer, stop), daemon=True)
            thread.start()
            try:
                yield dist.PrefixStore(self.owner, store)
            finally:
                stop.set()
                thread.join()

    def _listen(self) -> socket.socket:
        for port in self.ports:
            try:
                return socket.create_server(("", port), backlog=1024)
            except OSError:
                continue
        raise RendezvousError(
            f"none of the ports {', '.join(map(str, self.ports))} is free on the first node of "
            f"{self.owner}"
        )

    def _find_store(self, timeout: timedelta) -> dist.Store:
        deadline = time.monotonic() + timeout.total_seconds()
        other_owners: set[str] = set()
        while True:
            # Ports are the outer loop: an address that does not answer costs a timeout per port.
            for announced_port, address in itertools.product(self.ports, self.addresses):
                owner, port = _query_owner((address, announced_port))
                if owner == self.owner:
                    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)
                    return dist.PrefixStore(self.owner, store)
                other_owners |= {owner} - {""}
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        found = f", only {'; '.join(sorted(other_owners))}" if other_owners else ""
        raise RendezvousError(
            f"rank 0 of {self.owner} was not found at {' or '.join(self.addresses)}, ports "
            f"{', '.join(map(str, self.ports))}, within {timeout.total_seconds():g} s{found}"
        )


def _rank_0_addresses(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the address where srun was called, and that of the first node by its name.

    In a batch script both are the first node. Node names of SLURM need not resolve to addresses.
    """
    addresses = [env["SLURM_LAUNCH_NODE_IPADDR"]] if "SLURM_LAUNCH_NODE_IPADDR" in env else []
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    # "rack[01-03,07]node2,login" -> "rack01node2"
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    try:
        addresses.append(socket.gethostbyname(re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)))
    except OSError:
        if not addresses:
            raise UserError(
                "SLURM must set SLURM_LAUNCH_NODE_IPADDR or a list of nodes with addresses, but "
                f'the first node of "{nodes}" has none: start the ranks with srun, or add '
                "--init_method"
            ) from None
    return tuple(dict.fromkeys(addresses))


def _announce(listener: socket.socket, answer: bytes, stop: threading.Event) -> None:
    """Send ``answer`` to everyone who connects, until ``stop`` is set."""
    listener.settimeout(_POLL_SECONDS)
    while not stop.is_set():
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_SOCKET_TIMEOUT_SECONDS)
                connection.sendall(answer)
        except OSError:
            continue  # Nobody connected, or the client disconnected early.


def _query_owner(address: tuple[str, int]) -> tuple[str, int]:
    """Return the announced owner of a store and the store's port, or ("", 0) if there is none.

    Nothing is sent, because another program may listen there.
    """
    try:
        with socket.create_connection(address, timeout=_SOCKET_TIMEOUT_SECONDS) as connection:
            reply = connection.makefile(encoding="utf-8").read(_MAX_ANSWER_CHARS)
            owner, port, _ = reply.split("\n")
            return owner, int(port)
    except (OSError, ValueError):
        return "", 0
