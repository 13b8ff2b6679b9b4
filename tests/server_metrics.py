"""What a server's metrics endpoint says, which is a little after what it tells of: models tell Triton a few times a second."""

from __future__ import annotations

import time

import patient_http

from ananke_server.launch import TritonServer

_BETWEEN_TELLINGS = 1.5


def metrics_text(server: TritonServer) -> str:
    """All metrics, as Prometheus reads them."""
    return patient_http.get(f"http://{server.metrics_url}/metrics").text


def totals(server: TritonServer, prefix: str = "ananke_") -> dict[str, float]:
    """The metrics of ours, or of another prefix, by name and labels in Prometheus' own writing."""
    lines = metrics_text(server).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(prefix))
    return {name: float(value) for name, value in pairs}


def settled(server: TritonServer) -> dict[str, float]:
    """The totals, once what earlier requests did has been told."""
    last = totals(server)
    while True:
        time.sleep(_BETWEEN_TELLINGS)
        values = totals(server)
        if values == last:
            return values
        last = values
