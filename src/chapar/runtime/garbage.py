"""Garbage that reference counts do not find, and how often Python looks for it."""

import gc
from typing import Final

# Objects made since the last collections before there is one of each generation. Nearly all that a send makes is gone
# with its answer, and what a start loads is there to stay. Python's 700, 10, 10 look for what is not.
_COLLECTED: Final = (50_000, 20, 50)


def collect_rarely() -> None:
    """Collect less often than Python does by itself. Called before the imports, it saves a tenth of a start."""
    gc.set_threshold(*_COLLECTED)


def keep_what_is_loaded() -> None:
    """Take what has been built so far out of every later collection, which would walk through it."""
    gc.collect()
    gc.freeze()
