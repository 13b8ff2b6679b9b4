"""Ports of this machine to listen on, with the standard library alone."""

import errno
import random
import socket
from itertools import chain
from pathlib import Path

EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_UNPRIVILEGED_PORT, PORTS_END = 1024, 65536


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, all different.

    Those come first that the kernel does not hand out itself: a server binds its ports when its models are ready, and any connection
    that this machine opens until then may be given one of the kernel's.

    Raises:
        OSError: too few are free.
    """
    border = first_ephemeral_port()
    ours, kernels = range(FIRST_UNPRIVILEGED_PORT, border), range(border, PORTS_END)
    chance, ports = random.Random(), list[int]()
    for port in chain.from_iterable(chance.sample(some, len(some)) for some in (ours, kernels)):
        if len(ports) == count:
            break
        if listening_fault(host, port) is None:
            ports.append(port)
    if len(ports) < count:
        raise OSError(errno.EADDRNOTAVAIL, f"only {len(ports)} of {count} ports are free on {host}")
    return ports


def first_ephemeral_port() -> int:
    """The first of the ports that the kernel hands out itself."""
    try:
        return max(int(EPHEMERAL_PORTS.read_text().split()[0]), FIRST_UNPRIVILEGED_PORT)
    except OSError:
        return 32768


def listening_fault(host: str, port: int) -> OSError | None:
    """What keeps a server from listening there; None where it may."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            return fault
    return None
