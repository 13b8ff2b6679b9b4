"""What holds for all tests: no settings but the defaults and those that a test gives, and patience with real servers."""

import os

import pytest
from waiting import PATIENCE

os.environ["ANANKE_CONFIG"] = os.devnull


@pytest.fixture(autouse=True)
def patient_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancels and questions about health have 5 s, in which a machine with other work may not even send them."""
    if request.path.parent.name in ("serving", "faults"):
        monkeypatch.setattr("ananke_client.exchange.PROBE_TIMEOUT", PATIENCE)
