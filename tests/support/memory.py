"""How much memory a program takes, its children included."""

import contextlib
from pathlib import Path

from support.processes import children


def peak_of(pid: int) -> int:
    """The largest resident memory so far, in bytes, of a process and those it started that still run (VmHWM)."""
    return sum(_kilobytes(each, "VmHWM:") for each in [pid, *children(pid)]) * 1024


def resident_of(pid: int) -> int:
    """The resident memory now, in bytes, of a process and those it started (VmRSS)."""
    return sum(_kilobytes(each, "VmRSS:") for each in [pid, *children(pid)]) * 1024


def forget_peak(pid: int) -> None:
    """Let `peak_of` count from now on (proc(5), clear_refs)."""
    for each in [pid, *children(pid)]:
        Path(f"/proc/{each}/clear_refs").write_text("5")


def _kilobytes(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
