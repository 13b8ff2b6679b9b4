"""Ports to listen on, found on this machine."""

import socket
from pathlib import Path

import pytest

from ananke_server import ports
from ananke_server.ports import first_ephemeral_port, free_ports, listening_fault


def hand_out(monkeypatch: pytest.MonkeyPatch, folder: Path, first: int) -> None:
    """Let the kernel seem to hand out the ports from this one."""
    monkeypatch.setattr(ports, "EPHEMERAL_PORTS", folder / "range")
    ports.EPHEMERAL_PORTS.write_text(f"{first}\t65535\n")


def test_they_are_all_different():
    assert len(set(free_ports(8))) == 8
    assert free_ports(0) == []


@pytest.mark.skipif(first_ephemeral_port() <= ports.FIRST_UNPRIVILEGED_PORT + 8, reason="the kernel hands out all")
def test_none_is_of_those_that_the_kernel_hands_out():
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        handed_out = connection.getsockname()[1]
    assert max(free_ports(8)) < first_ephemeral_port() <= handed_out


def test_where_the_kernel_hands_out_all(monkeypatch, tmp_path):
    hand_out(monkeypatch, tmp_path, 1024)
    assert len(set(free_ports(8))) == 8


def test_a_port_that_is_taken_is_left_out(monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert listening_fault("127.0.0.1", port).strerror == "Address already in use"
        hand_out(monkeypatch, tmp_path, port)
        monkeypatch.setattr(ports, "FIRST_UNPRIVILEGED_PORT", port)
        monkeypatch.setattr(ports, "PORTS_END", port + 1)
        with pytest.raises(OSError, match=r"only 0 of 1 ports are free on 127\.0\.0\.1"):
            free_ports(1)
    assert listening_fault("127.0.0.1", port) is None
