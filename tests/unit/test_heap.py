"""What a process that serves leaves out of garbage collections."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SETTLED = """
import gc, weakref
from ananke_server.heap import release, settle

class Cycle:
    def __init__(self):
        self.itself = self

lives, dead = [[number] for number in range(100_000)], weakref.ref(Cycle())
settle()
assert dead() is None, "garbage is collected before"
assert gc.get_freeze_count() >= 100_000
assert len(gc.get_objects()) < 1000, "a full collection has next to nothing to look at"
late = Cycle()
gc.freeze()
dead = weakref.ref(late)
del late
gc.collect()
assert dead() is not None
release()
assert dead() is None, "what was left out is collected at the end"
"""


def test_what_lives_is_left_out_and_garbage_is_not_kept():
    subprocess.run([sys.executable, "-c", SETTLED], check=True, timeout=60, cwd=PROJECT)
