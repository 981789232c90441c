"""Where code runs: which of a world's gateway processes it belongs to."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.world import Process

_process: ContextVar["Process"] = ContextVar("process")


def here() -> "Process":
    """The gateway process that this code runs in."""
    return _process.get()


def enter(process: "Process") -> None:
    """Run what follows, and the tasks that it starts, in this process."""
    _process.set(process)
