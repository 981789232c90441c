"""How long the turns of a gateway's event loop are: `python -m support.turns serve` is `chapar serve`, measured.

A turn is measured in the processor time of the loop's thread, so that a busy machine does not make it longer.
"""

import asyncio
import mmap
import os
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
import uvloop

from chapar.cli.command import main
from support.gateway import GatewayProcess

_FILE: Final = "TURNS_FILE"
_RECORD: Final = struct.Struct("dd")  # seconds of the longest turn, measurements so far
_EVERY: Final = 0.002  # seconds; counts as part of a turn

_TESTS: Final = Path(__file__).parents[1]


class MeasuredGateway(GatewayProcess):
    """A gateway whose longest turn is known."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        file = folder / "turns"
        file.write_bytes(bytes(_RECORD.size))
        super().__init__(folder, {**(env or {}), _FILE: str(file), "PYTHONPATH": str(_TESTS)})
        with file.open("r+b") as opened:
            self._record = mmap.mmap(opened.fileno(), _RECORD.size)

    @property
    def command(self) -> list[str | Path]:
        return [sys.executable, "-P", "-m", "support.turns"]

    def forget(self) -> None:
        """Begin to measure anew."""
        _RECORD.pack_into(self._record, 0, 0.0, 0.0)

    def longest(self) -> float:
        """Seconds of the longest turn since then, the one that is under way included."""
        before = _RECORD.unpack_from(self._record)[1]
        while _RECORD.unpack_from(self._record)[1] < before + 2:
            httpx.get(f"{self.url}/health/live", timeout=60.0)
        seconds: float = _RECORD.unpack_from(self._record)[0]
        return seconds


def _measured_loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.Loop()
    with open(os.environ[_FILE], "r+b") as opened:  # noqa: PTH123 - a descriptor is all that is needed
        record = mmap.mmap(opened.fileno(), _RECORD.size)

    def measure(since: float) -> None:
        now = time.thread_time()
        longest, measurements = _RECORD.unpack_from(record)
        _RECORD.pack_into(record, 0, max(longest, now - since), measurements + 1)
        loop.call_later(_EVERY, measure, now)

    loop.call_soon(measure, time.thread_time())
    return loop


if __name__ == "__main__":
    uvloop.new_event_loop = _measured_loop
    main()
