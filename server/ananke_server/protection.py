"""Protection: what Triton's own server is told so that it keeps closed, hidden and bounded what it can."""

from __future__ import annotations

import resource
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ananke_server.settings import Settings

MANAGEMENT_HEADER: Final = "management-key"
"""The HTTP header that opens closed endpoints; over gRPC it is metadata, after ``GRPC_PREFIX``."""
GRPC_PREFIX: Final = "triton-grpc-protocol-"
LOOPBACK: Final = "127.0.0.1"
_USUAL_STACK_BYTES: Final = 8 << 20
_STRICT: Final = "2"


class ProtectionError(ValueError):
    """What is to protect the server cannot be used; one line says which setting, and why."""


def addresses(settings: Settings, host: str) -> tuple[str, str]:
    """Where HTTP and metrics are bound, gRPC being bound to ``host``."""
    http = settings.http_host or (host if settings.tls_certificate_file is None else LOOPBACK)
    return http, settings.metrics_host or host


def protecting_arguments(settings: Settings) -> list[str]:
    """Triton's arguments; one of them has the management key in it."""
    return [*_key_arguments(settings), *_closing_arguments(settings), *_tls_arguments(settings)]


def _key_arguments(settings: Settings) -> list[str]:
    from ananke_client.connection import API_KEY_HEADER

    if settings.api_key_file is None:
        return []
    # Over HTTP a header's name comes as the client wrote it, and Triton takes a pattern that matches a part of it.
    pattern = f"(?i)^{API_KEY_HEADER}$"
    return [f"--http-header-forward-pattern={pattern}", f"--grpc-header-forward-pattern={pattern}"]


def _closing_arguments(settings: Settings) -> list[str]:
    if not settings.closed_endpoints:
        return []
    given = settings.management_key
    key = secrets.token_urlsafe(32) if given is None else given.get_secret_value()
    closed = f"{','.join(settings.closed_endpoints)}:{MANAGEMENT_HEADER}={key}"
    return [f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"]


def _tls_arguments(settings: Settings) -> list[str]:
    certificate, key, authorities = settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file
    if certificate is None:
        return []
    arguments = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    return arguments if authorities is None else [*arguments, "--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authorities}"]


def require_certificates(settings: Settings) -> None:
    """Raises:
    ProtectionError: a file of TLS cannot be read, is not PEM, or certificate and key do not belong together.
    """
    certificate, key, authorities = settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file
    if certificate is None:
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for name, file in (("tls_certificate_file", certificate), ("tls_key_file", key), ("tls_client_ca_file", authorities)):
        if file is not None:
            _require_readable(name, file)
    try:
        # Without a password of ours, OpenSSL would ask the terminal for one.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as fault:
        reason = fault.reason or "no PEM, or an encrypted key"
        raise ProtectionError(f"tls_certificate_file and tls_key_file, {certificate} and {key}, cannot be used: {reason}") from None
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except ssl.SSLError as fault:
        raise ProtectionError(f"tls_client_ca_file, {authorities}, cannot be used: {fault.reason or 'no certificate in PEM'}") from None


def _require_readable(name: str, file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as fault:
        raise ProtectionError(f"{name}, {file}, cannot be read: {fault.strerror}") from None


@contextmanager
def large_stacks(mib: int) -> Iterator[None]:
    """A process started within the block has threads with stacks of so many MiB; with 8, the usual size, they stay what they are.

    Triton 2.51 copies the body of an HTTP request to the stack of the thread that reads it: with 8 MiB of stack, a body of 8 MB ended the
    server. Address space alone is taken; where the kernel counts that as memory, nothing is changed.
    """
    asked = mib << 20
    if asked <= _USUAL_STACK_BYTES:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = asked if hard == resource.RLIM_INFINITY else min(asked, hard)
    # Unlimited stacks are small ones: glibc then takes 2 MiB for a thread's.
    if (soft != resource.RLIM_INFINITY and soft >= wanted) or _counts_address_space():
        yield
        return
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def usual_stacks() -> None:
    """Undo ``large_stacks`` in a process of Triton's: for the threads and processes that it starts from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft == resource.RLIM_INFINITY or soft > _USUAL_STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (_USUAL_STACK_BYTES, hard))


def _counts_address_space() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == _STRICT
    except OSError:
        return False
