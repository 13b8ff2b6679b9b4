"""What each model's process does first."""

import sys

from ananke_server.logs import configure_logging
from ananke_server.protection import usual_stacks
from ananke_server.settings import Settings, load_settings

_SWITCH_SECONDS = 0.0005
"""After which a thread has to let go of Python's lock for another, in processes that send responses. With Python's own 5 ms a busy event
loop kept the threads that send them waiting so long that eight tokens left together; it loses next to nothing by it."""


def begin(*, sends: bool = False) -> Settings:
    """The settings, once the process logs as they say and starts threads with stacks of the usual size.

    Args:
        sends: whether threads send responses beside an event loop.
    """
    if sends:
        sys.setswitchinterval(_SWITCH_SECONDS)
    settings = load_settings()
    configure_logging(settings)
    usual_stacks()
    return settings
