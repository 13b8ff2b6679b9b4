"""Encryption, mutual TLS and headers, over both transports."""

from __future__ import annotations

import pytest
from certificates import certificates
from four_clients import FOUR, make_client
from triton_support import serving

from ananke_client import EngineUnavailableError, InvalidRequestError, RetryPolicy, TLSConfig
from ananke_client.connection import headers_of
from ananke_client.http_codec import base_url_of

ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


def pair_of(holder):
    return holder.certificate, holder.key


@pytest.fixture
def port(script, kind, files):
    with serving(script, kind.split("-")[0], certificates=(files["authority"].certificate, *pair_of(files["server"]))) as port:
        yield port


def test_mutual_tls(kind, port, files, script):
    tls = TLSConfig(ca_file=files["authority"].certificate, certificate_file=files["client"].certificate, key_file=files["client"].key)
    with make_client(kind, port, tls=tls, timeout=10, retry=ONCE) as client:
        assert client.generate("words 2").text == "".join(script.words("words 2"))
        assert list(client.generate_stream("words 3")) == script.words("words 3")
        assert client.validate("{}").accepted


@pytest.mark.parametrize(("authority", "own"), [("authority", None), ("authority", "stranger"), ("other", "client"), (None, "client")])
def test_who_is_not_trusted_gets_nothing(kind, port, files, script, authority, own):
    pair = pair_of(files[own]) if own else (None, None)
    tls = TLSConfig(ca_file=files[authority].certificate if authority else None, certificate_file=pair[0], key_file=pair[1])
    with make_client(kind, port, tls=tls, timeout=10, retry=ONCE) as client, pytest.raises(EngineUnavailableError):
        client.generate("words 2")
    assert not script.tries


def test_plain_text_does_not_reach_an_encrypted_server(kind, port, script):
    with make_client(kind, port, timeout=30, retry=ONCE) as client, pytest.raises(EngineUnavailableError):
        client.generate("words 2")
    assert not script.tries


@pytest.mark.parametrize("kind", FOUR)
def test_the_key_and_headers_go_with_every_call(kind, script, monkeypatch):
    with serving(script, kind.split("-")[0]) as port:
        with make_client(kind, port, api_key="s3cret", headers={"X-Team": "a b"}) as client:
            client.generate("words 2")
            list(client.generate_stream("words 2"))
            client.validate("{}")
        monkeypatch.setenv("ANANKE_API_KEY", "from the environment")
        with make_client(kind, port) as client:
            client.generate("words 2")
            assert "from the environment" not in repr(vars(client))
    if kind.startswith("http"):
        assert script.keys == ["s3cret"] * 2 + ["from the environment"], "Triton hands no header of /generate to a model"
    assert [headers.get("x-api-key") for headers in script.headers] == ["s3cret"] * 3 + ["from the environment"]
    assert [headers.get("x-team") for headers in script.headers] == ["a b"] * 3 + [None]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x team", "a"),
        ("x-é", "a"),
        ("triton_grpc_error", "true"),
        ("grpc-timeout", "1S"),
        ("x-bin", "a"),
        ("x", ""),
        ("x", "a\nb"),
        ("x", "é"),
        ("content-length", "1"),
    ],
)
def test_headers_refused(name, value):
    with pytest.raises(InvalidRequestError, match="header") as raised:
        headers_of(None, {name: value})
    assert value not in raised.value.message or value in ("", "a", "true", "1S", "1")


@pytest.mark.parametrize(("api_key", "headers"), [(5, None), (b"key", None), (None, [("x", "a")]), (None, {"x": 5}), (None, "x")])
def test_keys_and_headers_are_texts(api_key, headers):
    with pytest.raises(InvalidRequestError, match="text"):
        headers_of(api_key, headers)


@pytest.mark.parametrize("kind", FOUR)
def test_tls_refused(kind, tmp_path):
    with pytest.raises(InvalidRequestError, match="both"):
        TLSConfig(certificate_file="a.pem")
    missing = TLSConfig(ca_file=tmp_path / "missing.pem")
    with pytest.raises(InvalidRequestError, match=r"missing\.pem"):
        make_client(kind, 1, tls=missing)


@pytest.mark.parametrize("kind", FOUR)
def test_files_that_are_no_pem_are_told_before_any_call(kind, tmp_path, files):
    (tmp_path / "no.pem").write_text("no certificate")
    no_pem, client, stranger = tmp_path / "no.pem", files["client"], files["stranger"]
    for tls in (
        TLSConfig(ca_file=no_pem),
        TLSConfig(certificate_file=client.certificate, key_file=no_pem),
        TLSConfig(certificate_file=client.certificate, key_file=stranger.key),
    ):
        with pytest.raises(InvalidRequestError, match="TLSConfig"):
            make_client(kind, 1, tls=tls)


@pytest.mark.parametrize("url", ["http://a:x", "http://a:99999", "http://", "http:///x", "ftp://a", "http://a\x00", "http://xn--"])
def test_an_url_that_is_none_of_http_is_refused(url):
    with pytest.raises(InvalidRequestError, match="URL"):
        base_url_of(url)


def test_the_scheme_follows_tls():
    assert base_url_of("near:1", TLSConfig()) == "https://near:1"
    assert base_url_of("https://near", TLSConfig()) == "https://near"
    with pytest.raises(InvalidRequestError, match="not encrypted"):
        base_url_of("http://near", TLSConfig())
