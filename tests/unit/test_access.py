"""Access: where a request's key is taken from, what of it goes on, and whose the request then is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import backend_support  # noqa: F401  (before what imports Triton's module)
import pytest

from ananke_client.errors import EngineUnavailableError, InvalidRequestError, UnauthenticatedError
from ananke_server.api_keys import key_line, new_key
from ananke_server.engine.request import Command, GenerateRequest
from ananke_server.settings import Settings
from ananke_server.triton.access import Access, log_openness
from ananke_server.triton.codec import decode_request, triton_error
from ananke_server.triton.under_way import MOST_NAMES

KEY, OTHER = new_key(), new_key()


class Request:
    """A request as Triton's backend hands it to a model."""

    def __init__(self, parameters: dict[str, Any] | str, **tensors: str) -> None:
        self._parameters = parameters if isinstance(parameters, str) else json.dumps(parameters)
        self.tensors = tensors

    def parameters(self) -> str:
        return self._parameters

    def request_id(self) -> str:
        return "mine"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "api_keys"
    file.write_text(key_line("one", KEY) + key_line("two", OTHER))
    return file


@pytest.fixture
def access(file: Path) -> Access:
    return Access.of(Settings(model="m", api_key_file=file))


@pytest.mark.parametrize("name", ["x-api-key", "X-API-Key", "X-Api-Key"])
def test_a_key_is_admitted_however_its_name_is_written_and_goes_no_further(access: Access, name: str) -> None:
    assert access.admit(Request({name: KEY, "deadline_ms": 5})) == ({"deadline_ms": 5}, "one")
    assert access.admit(Request({name: OTHER})) == ({}, "two")


def test_the_same_key_in_the_header_and_in_the_body_is_one(access: Access) -> None:
    assert access.admit(Request({"X-Api-Key": KEY, "x-api-key": KEY})) == ({}, "one")
    assert access.admit(Request(f'{{"x-api-key": "wrong", "x-api-key": "{KEY}"}}')) == ({}, "one"), "whoever sent it has the key"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"api-key": KEY},
        {"client_id": KEY},
        {"x-api-key": ""},
        {"x-api-key": new_key()},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": None},
        {"x-api-key": True},
        {"x-api-key": [KEY]},
        {"x-api-key": KEY, "X-API-KEY": "wrong"},
        {"x-api-key": KEY, "X-API-KEY": OTHER},
    ],
)
def test_without_an_admitted_key_a_request_is_refused_before_it_is_read(access: Access, parameters: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        decode_request(Request(parameters | {"no such": 1}), access)
    assert KEY not in str(refused.value)
    status = triton_error(refused.value)
    assert str(status.args[0]).startswith("[unauthenticated] ")


def test_without_a_file_nobody_is_asked_and_a_key_is_no_unknown_parameter() -> None:
    """Clients send it for a proxy that asks."""
    assert Access.of(Settings(model="m")).admit(Request({"x-api-key": "any", "status": True})) == ({"status": True}, "")


def test_a_file_that_breaks_closes_the_door_and_does_not_blame_the_key(access: Access, file: Path) -> None:
    file.write_text("broken\n")
    with pytest.raises(EngineUnavailableError, match="cannot read its API keys now"):
        access.admit(Request({"x-api-key": KEY}))


def decoded(access: Access, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], **tensors: str) -> GenerateRequest | Command:
    monkeypatch.setattr("ananke_server.triton.codec._scalar", lambda request, name: request.tensors.get(name))
    return decode_request(Request(parameters, **tensors), access)


def test_the_key_names_the_client_whatever_the_client_says(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one who has a key could take many shares of the engine."""
    request = decoded(access, monkeypatch, {"x-api-key": KEY, "client_id": "two"}, text_input="x")
    assert isinstance(request, GenerateRequest)
    assert (request.client, request.key_name) == ("one", "one")
    assert KEY not in repr(request)
    unchecked = decoded(Access(None), monkeypatch, {"client_id": "two"}, text_input="x")
    assert isinstance(unchecked, GenerateRequest)
    assert (unchecked.client, unchecked.key_name) == ("two", "")


@pytest.mark.parametrize("command", [{"cancel": "a"}, {"renew": "a\nb"}, {"status": True}])
def test_a_command_needs_a_key_too_and_is_about_its_own(
    access: Access, monkeypatch: pytest.MonkeyPatch, command: dict[str, Any]
) -> None:
    made = decoded(access, monkeypatch, command | {"x-api-key": OTHER})
    assert isinstance(made, Command)
    assert made.verb in command
    if made.verb != "status":
        assert made.key_name == "two"
    with pytest.raises(UnauthenticatedError):
        decoded(access, monkeypatch, command)


def test_a_command_names_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(Access(None), monkeypatch, {"cancel": "\n".join("a" * MOST_NAMES)})
    with pytest.raises(InvalidRequestError, match=f"at most {MOST_NAMES} requests, not {MOST_NAMES + 1}"):
        decoded(Access(None), monkeypatch, {"cancel": "\n".join("a" * (MOST_NAMES + 1))})


def test_a_start_says_what_is_left_open(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said(**values: Any) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            log_openness(Settings(model="m", **values))
        return caplog.text

    assert "no API key is checked" in said()
    assert said(api_key_file=file) == ""
    assert "API keys travel unencrypted to 0.0.0.0" in said(api_key_file=file, host="0.0.0.0")
    assert said(api_key_file=file, host="0.0.0.0", tls_certificate_file=file, tls_key_file=file) == ""
    assert "code of the model's repository is run" in said(api_key_file=file, trust_remote_code=True)
