"""Settings: limits by name, and what is no limit told."""

from __future__ import annotations

import pytest

from ananke_server.constraints.limits import Limits
from ananke_server.settings import ConfigError, Settings, load_settings

PLAIN = {name: field.default for name, field in Settings.model_fields.items() if isinstance(field.default, (str, int, float))}


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANANKE_MODEL", "some/model")


@pytest.mark.parametrize("name", sorted(PLAIN.keys() - {"model"}))
def test_each_default_can_be_given_as_a_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable is text, which not every type takes."""
    monkeypatch.setenv(f"ANANKE_{name.upper()}", str(PLAIN[name]))
    assert getattr(load_settings(), name) == PLAIN[name]


def test_limits_have_their_defaults() -> None:
    assert load_settings().limits == Limits()


def test_each_limit_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANANKE_LIMITS__BYTES", "5000")
    monkeypatch.setenv("ANANKE_LIMITS__COMPILE_SECONDS", "0.5")
    assert load_settings().limits == Limits(bytes=5000, compile_seconds=0.5)


@pytest.mark.parametrize(("name", "value"), [("BYTES", "0"), ("COMPILE_MIB", "-5"), ("BYTES", "many"), ("BITES", "5")])
def test_what_is_no_limit_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ANANKE_LIMITS__{name}", value)
    with pytest.raises(ConfigError, match=r"(?i)limit"):
        load_settings()
