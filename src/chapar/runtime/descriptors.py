"""File descriptors: each connection, file and pipe of a process takes one, and the system allows only so many."""

import contextlib
import resource
from typing import Final

_RESERVE: Final = 64  # for the database, the broker, the writer and the log


def raise_limit() -> None:
    """Let this process and its children open as many files and connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def affordable(connections: int, readers: int) -> int:
    """Return so many connections, or as many as there are descriptors for beside those of the database's readers."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(connections, allowed - _RESERVE - readers))
