"""What the kernel says about running processes: processor time and memory."""

import os
from collections.abc import Iterable
from pathlib import Path

from support.processes import children, describe

_TICKS = os.sysconf("SC_CLK_TCK")  # a second


def gateway_processes(pid: int) -> list[int]:
    """The gateway and its writer; not the broker or the database."""
    return [pid, *(child for child in children(pid) if "chapar.store.writer" in describe(child))]


def processor_seconds(pid: int) -> float:
    """User and system time so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pids: Iterable[int]) -> tuple[int, ...]:
    """Resident memory of each now (VmRSS)."""
    return tuple(_resident_bytes(pid) for pid in pids)


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) * 1024
