"""When the lease keeper renews."""

from __future__ import annotations

import time
from types import SimpleNamespace

from ananke_client.lease import LeaseKeeper
from ananke_client.stand_in import run


class Call:
    attempt_id: str | None = "try"


class Commands:
    """Renewals that nobody answers: each takes all of its patience."""

    async def try_all(self, verb, names, *, patience=0.0):
        time.sleep(patience)


class Pauses:
    """Notes the waits, and ends the call at the fourth."""

    def __init__(self, call):
        self.call, self.waits = call, []

    async def wait(self, seconds):
        self.waits.append(seconds)
        if len(self.waits) == 4:
            self.call.attempt_id = None

    def end(self):
        pass


def test_a_renewal_that_nobody_answers_leaves_time_for_another(monkeypatch):
    monkeypatch.setattr("ananke_client.lease.LEASE", 2.5)
    call = Call()
    pauses = Pauses(call)
    keeper = LeaseKeeper(SimpleNamespace(spawn=lambda work: run(work()), pause=lambda: pauses), Commands())
    keeper.keep(call)
    assert 0 < pauses.waits[0] <= 0.5
    assert pauses.waits[1:] == [0.0] * 3
