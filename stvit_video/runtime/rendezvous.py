"""Where the ranks of a SLURM job meet, and how they know that it is they who meet.

Jobs may share a node, and two that took the same port once joined one process group and added up
each other's gradients without any error. So the port follows from the job's number, the first rank
takes another one if it is taken, and there tells everybody whose store it keeps, and at which port.
(A store itself is not asked: its client waits for ever for another program that listens there.)
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

# Below the ports that Linux gives to outgoing connections. Candidates of a job lie far apart, as
# jobs with neighboring numbers run at the same time.
_FIRST_PORT, _NUM_PORTS, _STRIDE, _CANDIDATES = 20000, 12000, 1009, 8
# For an answer, which another program that listens there may never give; between two rounds.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 2.0, 0.2
# Characters of an answer.
_LONGEST = 1000


class MeetingError(RuntimeError):
    """The ranks did not find each other; the message says where they looked."""


@dataclass(frozen=True)
class Rendezvous:
    """A store of the first rank that the others find.

    Attributes:
        owner: says whose store it is: the job, its step, and how often it was requeued.
        addresses: of the machine of the first rank, the likeliest first.
        ports: which it may take, in this order.
    """

    owner: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]

    @classmethod
    def of_slurm(cls, env: Mapping[str, str]) -> "Rendezvous":
        """Derive all of it from the variables that srun sets for a task."""
        job, step = env["SLURM_JOB_ID"], env.get("SLURM_STEP_ID", "0")
        restarts = env.get("SLURM_RESTART_COUNT") or "0"
        first = int(job) % _NUM_PORTS
        return cls(
            owner=f"job {job}, step {step}, restart {restarts}",
            addresses=_addresses(env),
            ports=tuple(
                _FIRST_PORT + (first + index * _STRIDE) % _NUM_PORTS for index in range(_CANDIDATES)
            ),
        )

    @contextmanager
    def meeting(self, *, is_first: bool, timeout: timedelta) -> Iterator[dist.Store]:
        """Give the store to meet in, as the first rank or another one.

        The first rank must stay in the block until all have joined, as the others find its store
        no more when it leaves.

        Raises:
            MeetingError: no port is free, or the store was not found within ``timeout``.
        """
        if not is_first:
            yield self._find(timeout)
            return
        # It listens on all interfaces, but connects to itself too, and of the addresses the first
        # may be that of a login node.
        store = dist.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        ended = threading.Event()
        with self._listen() as listener:
            answer = f"{self.owner}\n{store.port}\n".encode()
            thread = threading.Thread(target=_announce, args=(listener, answer, ended), daemon=True)
            thread.start()
            try:
                yield dist.PrefixStore(self.owner, store)
            finally:
                ended.set()
                thread.join()

    def _listen(self) -> socket.socket:
        for port in self.ports:
            try:
                return socket.create_server(("", port), backlog=1024)
            except OSError:
                continue
        raise MeetingError(
            f"none of the ports {', '.join(map(str, self.ports))} is free on the first node of "
            f"{self.owner}"
        )

    def _find(self, timeout: timedelta) -> dist.Store:
        deadline = time.monotonic() + timeout.total_seconds()
        others: set[str] = set()
        while True:
            # An address that does not answer costs its patience for each port: not all of them.
            for meeting_port, address in itertools.product(self.ports, self.addresses):
                owner, port = _ask((address, meeting_port))
                if owner == self.owner:
                    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)
                    return dist.PrefixStore(self.owner, store)
                others |= {owner} - {""}
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        found = f", only {'; '.join(sorted(others))}" if others else ""
        raise MeetingError(
            f"rank 0 of {self.owner} was not found at {' or '.join(self.addresses)}, ports "
            f"{', '.join(map(str, self.ports))}, in {timeout.total_seconds():g} s{found}"
        )


def _addresses(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return where srun was called, in a batch script the first node, and that node by name.

    The names that SLURM knows nodes by need not lead anywhere.
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
                "SLURM says neither SLURM_LAUNCH_NODE_IPADDR nor a node whose name leads to an "
                f'address (the first of "{nodes}" does not): start the ranks with srun, or give '
                "--init_method"
            ) from None
    return tuple(dict.fromkeys(addresses))


def _announce(listener: socket.socket, answer: bytes, ended: threading.Event) -> None:
    """Tell everybody who connects whose store it is, and where, until the meeting has ended."""
    listener.settimeout(_PAUSE_SECONDS)
    while not ended.is_set():
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_PATIENCE_SECONDS)
                connection.sendall(answer)
        except OSError:
            continue  # nobody came, or somebody left at once


def _ask(place: tuple[str, int]) -> tuple[str, int]:
    """Return whose store is announced at a place and its port, or ("", 0) where there is none.

    Nothing is sent: another program may listen there.
    """
    try:
        with socket.create_connection(place, timeout=_PATIENCE_SECONDS) as connection:
            owner, port, _ = connection.makefile(encoding="utf-8").read(_LONGEST).split("\n")
            return owner, int(port)
    except (OSError, ValueError):
        return "", 0
