"""The environment's proxies: for other hosts they are taken, for this machine never: a probe would send its key elsewhere."""

from __future__ import annotations

import socket
import threading

import pytest
from four_clients import FOUR, make_client
from triton_support import Script, serving

from ananke_client import EngineUnavailableError, RetryPolicy
from ananke_client.proxies import is_this_machine, proxy_of

ONCE = RetryPolicy(attempts=1)


class Proxy:
    """Notes the first line of what comes, and refuses it."""

    def __init__(self):
        self.lines = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self.lines.append(client.recv(1 << 16).split(b"\r\n")[0].decode())
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "grpc_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    proxy = Proxy()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", FOUR)
def test_this_machine_is_asked_without_a_proxy(kind, host, proxy):
    script = Script()
    with serving(script, kind.split("-")[0]) as port, make_client(kind, port, url=f"{host}:{port}", retry=ONCE, api_key="s3cret") as client:
        assert client.generate("words 2").text == "".join(script.words("words 2"))
    assert proxy.lines == []


@pytest.mark.parametrize("kind", FOUR)
def test_other_hosts_are_asked_through_the_proxy(kind, proxy):
    with make_client(kind, 1, url="ananke.test:80", timeout=10, retry=ONCE) as client, pytest.raises(EngineUnavailableError):
        client.generate("words 2")
    wanted = "CONNECT ananke.test:80 " if kind.startswith("grpc") else "POST http://ananke.test/v2/models/generate/generate "
    assert proxy.lines[0].startswith(wanted)


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://far:8000", {"http_proxy": "http://one:3128"}, "http://one:3128"),
        ("http://far:8000", {"http_proxy": "one:3128"}, "http://one:3128"),
        ("https://far", {"http_proxy": "http://one:3128"}, None),
        ("https://far", {"https_proxy": "http://two:3128", "all_proxy": "http://three:1"}, "http://two:3128"),
        ("http://far", {"all_proxy": "http://three:1"}, "http://three:1"),
        ("http://far:8000", {"http_proxy": "http://one:3128", "no_proxy": "near,far"}, None),
        ("http://[::1]:8000", {"http_proxy": "http://one:3128"}, None),
        ("http://far", {}, None),
    ],
)
def test_which_proxy(url, environment, proxy, monkeypatch):
    for name in ("no_proxy", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.0.1", "[::1]", "LOCALHOST", "a.localhost", "0.0.0.0"])
def test_what_is_this_machine(host):
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["far", "localhost.far", "10.0.0.1", ""])
def test_what_is_not(host):
    assert not is_this_machine(host)
