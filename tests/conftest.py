"""What holds for all tests: no settings but the defaults and those that a test gives."""

import os

os.environ["ANANKE_CONFIG"] = os.devnull
