"""Where the ranks of a SLURM job meet, and how they know that it is they who meet.

Jobs may share a node, and two that took the same port once joined one process group and added up
each other's gradients without any error. So the port follows from the job's number, the first
rank takes another one if it is taken, and all ask a store whose it is before they join it.
"""

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

# Below the ports that Linux gives to outgoing connections. Candidates of a job lie far apart, as
# jobs with neighbouring numbers run at the same time.
_FIRST_PORT, _NUM_PORTS, _STRIDE, _CANDIDATES = 20000, 12000, 1009, 8
# For one answer of what listens at a port, which may be another program; between two rounds.
_PATIENCE, _PAUSE_SECONDS = timedelta(seconds=5), 0.2
_OWNER = "owner"


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

    def open_store(self, *, is_first: bool, timeout: timedelta) -> dist.Store:
        """Open the store as the first rank, or find it as another one.

        Raises:
            MeetingError: no port is free, or the store was not found within ``timeout``.
        """
        store = self._keep(timeout) if is_first else self._find(timeout)
        # Whoever came this far with another owner would still find none of its keys.
        return dist.PrefixStore(self.owner, store)

    def _keep(self, timeout: timedelta) -> dist.TCPStore:
        for port in self.ports:
            listener = _listen(port)
            if listener is None:
                continue
            store = dist.TCPStore(
                self.addresses[0],
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=timeout,
                # Bound already, so no other program can take the port in between.
                master_listen_fd=listener.detach(),
            )
            store.set(_OWNER, self.owner)
            return store
        raise MeetingError(
            f"none of the ports {', '.join(map(str, self.ports))} is free on the first node of "
            f"{self.owner}"
        )

    def _find(self, timeout: timedelta) -> dist.TCPStore:
        deadline = time.monotonic() + timeout.total_seconds()
        owners: set[str] = set()
        while True:
            for address in self.addresses:
                for port in self.ports:
                    store = _connect(address, port)
                    owner = _owner(store) if store else ""
                    if store and owner == self.owner:
                        store.set_timeout(timeout)
                        return store
                    owners |= {owner} - {""}
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        others = f", only {'; '.join(sorted(owners))}" if owners else ""
        raise MeetingError(
            f"rank 0 of {self.owner} was not found at {' or '.join(self.addresses)}, ports "
            f"{', '.join(map(str, self.ports))}, in {timeout.total_seconds():g} s{others}"
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
            raise MeetingError(
                f"SLURM says neither SLURM_LAUNCH_NODE_IPADDR nor a node whose name leads to an "
                f'address (the first of "{nodes}" does not)'
            ) from None
    return tuple(dict.fromkeys(addresses))


def _listen(port: int) -> socket.socket | None:
    """Return a listening socket on all interfaces, or None if the port is taken."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A requeued job may find connections of its last start still closing; a listening port
        # stays taken all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(1024)
    except OSError:
        listener.close()
        return None
    return listener


def _connect(address: str, port: int) -> dist.TCPStore | None:
    """Return the store at a port, or None if nothing, or something else, listens there."""
    try:
        socket.create_connection((address, port), timeout=_PATIENCE.total_seconds()).close()
        return dist.TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=_PATIENCE
        )
    except (OSError, dist.DistError):
        return None


def _owner(store: dist.TCPStore) -> str:
    try:
        return store.get(_OWNER).decode()
    except dist.DistError:
        return "a store without an owner"
