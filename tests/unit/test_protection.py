"""Protection: what Triton is told by the settings, which combinations are refused, certificates before a start, and large stacks."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from certificates import Holder, certificates

from ananke_server.launch import PROJECT, Triton, TritonServer
from ananke_server.protection import ProtectionError, addresses, protecting_arguments, require_certificates
from ananke_server.settings import ConfigError, Settings, is_loopback, load_settings

KEY = "k" * 31 + "-"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Holder]:
    return certificates(tmp_path_factory.mktemp("tls"))


def tls(made: dict[str, Holder], *, mutual: bool = False) -> dict[str, Any]:
    server = made["server"]
    values: dict[str, Any] = {"tls_certificate_file": server.certificate, "tls_key_file": server.key}
    return values | ({"tls_client_ca_file": made["authority"].certificate} if mutual else {})


def told(**values: Any) -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in protecting_arguments(Settings(model="m", **values)))


def loaded(**variables: str) -> Settings:
    return load_settings({f"ANANKE_{name.upper()}": value for name, value in variables.items()})


class TestClosedEndpoints:
    def test_management_is_closed_by_default_with_another_key_each_start(self) -> None:
        first, second = told(), told()
        assert first.keys() == {"--http-restricted-api", "--grpc-restricted-protocol"}
        closed, _, key = first["--http-restricted-api"].rpartition("=")
        assert closed == "model-repository,shared-memory,trace,logging:management-key"
        assert first["--grpc-restricted-protocol"] == first["--http-restricted-api"]
        assert len(key) >= 43
        assert first != second

    def test_which_are_closed_and_by_what_key_can_be_set(self) -> None:
        given = loaded(closed_endpoints='["statistics", "logging", "statistics"]', management_key=KEY)
        assert protecting_arguments(given)[0] == f"--http-restricted-api=statistics,logging:management-key={KEY}"
        assert protecting_arguments(loaded(closed_endpoints="[]")) == []

    @pytest.mark.parametrize(
        "variables", [{"closed_endpoints": '["inference"]'}, {"management_key": "short"}, {"management_key": "a,b=" * 10}]
    )
    def test_what_cannot_be_closed_and_a_weak_key_are_refused(self, variables: dict[str, str]) -> None:
        with pytest.raises(ConfigError) as refused:
            loaded(**variables)
        assert variables.get("management_key", "?!") not in str(refused.value)

    def test_the_models_do_not_inherit_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANANKE_MANAGEMENT_KEY", KEY)
        triton = Triton(Path("bin/tritonserver"), Path("backends"))
        server = TritonServer([PROJECT / "model_repository"])
        assert KEY in " ".join(server.arguments(triton))
        assert KEY not in repr(server.full_environment(triton))


class TestKeys:
    def test_the_header_is_forwarded_only_where_keys_are_checked(self) -> None:
        assert "--http-header-forward-pattern" not in told()
        assert told(api_key_file="/k")["--http-header-forward-pattern"] == "(?i)^x-api-key$"
        assert told(api_key_file="/k")["--grpc-header-forward-pattern"] == "(?i)^x-api-key$"

    def test_the_response_cache_is_off_where_keys_are_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Triton would answer from it without asking for one."""
        triton = Triton(Path("bin/tritonserver"), Path("backends"))
        monkeypatch.setenv("ANANKE_RESPONSE_CACHE_MIB", "8")
        cached = TritonServer([PROJECT / "model_repository"])
        assert "--cache-config=local,size=8388608" in cached.arguments(triton)
        assert "response_cache" in (cached.repositories()[0] / "validate" / "config.pbtxt").read_text()
        monkeypatch.setenv("ANANKE_API_KEY_FILE", "/k")
        checked = TritonServer([PROJECT / "model_repository"])
        assert "--cache-config" not in " ".join(checked.arguments(triton))
        assert "response_cache" not in (checked.repositories()[0] / "validate" / "config.pbtxt").read_text()


class TestTls:
    def test_grpc_is_encrypted_and_http_stays_on_this_machine(self, made: dict[str, Holder]) -> None:
        arguments = told(**tls(made))
        assert arguments["--grpc-use-ssl"] == "true"
        assert (arguments["--grpc-server-cert"], arguments["--grpc-server-key"]) == (made["server"].certificate, made["server"].key)
        assert "--grpc-use-ssl-mutual" not in arguments
        mutual = told(**tls(made, mutual=True))
        assert (mutual["--grpc-use-ssl-mutual"], mutual["--grpc-root-cert"]) == ("true", made["authority"].certificate)

    def test_addresses(self, made: dict[str, Holder]) -> None:
        assert addresses(Settings(model="m"), "0.0.0.0") == ("0.0.0.0", "0.0.0.0")
        assert addresses(Settings(model="m", http_host="10.0.0.1", metrics_host="10.0.0.2"), "0.0.0.0") == ("10.0.0.1", "10.0.0.2")
        assert addresses(Settings(model="m", **tls(made)), "0.0.0.0") == ("127.0.0.1", "0.0.0.0")
        assert addresses(Settings(model="m", **tls(made), http_host="::1"), "0.0.0.0") == ("::1", "0.0.0.0")

    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({"tls_certificate_file": "a.pem"}, "tls_certificate_file and tls_key_file belong together"),
            ({"tls_key_file": "a.pem"}, "tls_certificate_file and tls_key_file belong together"),
            ({"tls_client_ca_file": "a.pem"}, "tls_client_ca_file asks for certificates over TLS"),
            (
                {"tls_certificate_file": "a.pem", "tls_key_file": "b.pem", "http_host": "0.0.0.0"},
                "http_host is 0.0.0.0, but Triton's HTTP has no TLS",
            ),
            (
                {"tls_certificate_file": "a.pem", "tls_key_file": "b.pem", "http_host": "ananke.example"},
                "http_host is ananke.example, but Triton's HTTP has no TLS",
            ),
        ],
    )
    def test_what_would_be_unsafe_is_refused(self, variables: dict[str, str], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            loaded(**variables)

    @pytest.mark.parametrize(
        ("host", "is_it"),
        [("127.0.0.1", True), ("127.8.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("a", False)],
    )
    def test_loopback(self, host: str, is_it: bool) -> None:
        assert is_loopback(host) is is_it

    def test_certificates_are_read_before_the_start(self, made: dict[str, Holder], tmp_path: Path) -> None:
        require_certificates(Settings(model="m"))
        require_certificates(Settings(model="m", **tls(made, mutual=True)))
        nothing, noise = str(tmp_path / "nothing"), tmp_path / "noise"
        noise.write_text("noise")
        for change, said in (
            ({"tls_key_file": made["client"].key}, "tls_certificate_file and tls_key_file, .* cannot be used: KEY_VALUES_MISMATCH"),
            ({"tls_key_file": nothing}, "tls_key_file, .*nothing, cannot be read: No such file"),
            ({"tls_certificate_file": str(noise)}, "tls_certificate_file and tls_key_file, .* cannot be used"),
            ({"tls_client_ca_file": str(noise)}, "tls_client_ca_file, .*noise, cannot be used"),
        ):
            with pytest.raises(ProtectionError, match=said):
                require_certificates(Settings(model="m", **(tls(made) | change)))


STACKS = """
import resource, subprocess, sys
from ananke_server.protection import large_stacks, usual_stacks
soft, hard = (int(argument) for argument in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
show = [sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_STACK)[0])"]
with large_stacks(8):
    subprocess.run(show, check=True)
with large_stacks(1024):
    subprocess.run(show, check=True)
    usual_stacks()
    subprocess.run(show, check=True)
subprocess.run(show, check=True)
"""


@pytest.mark.skipif(Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2", reason="the kernel counts address space here")
@pytest.mark.parametrize("bounded", [False, True])
def test_triton_has_large_stacks_where_told_and_what_it_starts_the_usual_ones(bounded: bool) -> None:
    """A body of 8 MB over HTTP ends Triton 2.51 where a thread's stack has 8 MiB."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if bounded:
        hard = 64 << 20
    wanted = 1 << 30 if hard == resource.RLIM_INFINITY else min(1 << 30, hard)
    done = subprocess.run([sys.executable, "-c", STACKS, str(8 << 20), str(hard)], capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [8 << 20, wanted, 8 << 20, 8 << 20]
