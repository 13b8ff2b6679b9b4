"""httpx for tests: its own 5 s pass unanswered on a machine with other work, and no proxy stands before a server of this machine."""

from __future__ import annotations

from functools import partial

import httpx
from waiting import PATIENCE

get = partial(httpx.get, timeout=PATIENCE, trust_env=False)
request = partial(httpx.request, timeout=PATIENCE, trust_env=False)
post = partial(httpx.post, timeout=PATIENCE, trust_env=False)
