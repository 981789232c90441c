"""`python -m benchmarks.slow_readers PORT COUNT`: so many readers of the whole report, in no hurry.

For each line of its input it says in a line of JSON how they are; it ends with its input.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

_PIECE = 2048  # bytes read …
_PAUSE = 0.5  # … every so many seconds: a poor cellular connection
_BUFFER = 16 * 1024  # bytes that the kernel keeps for a reader: more would hide how slow it is
_BEGIN_WITHIN = 30.0  # seconds
_SETTLE = 3.0  # seconds until the kernel holds all it takes of each answer, and the gateway waits for the readers
_LOOK_EVERY = 0.1  # seconds


class ReadersFailed(Exception):
    """Not all readers read all the time, so what was measured beside them means nothing."""


@dataclass(frozen=True)
class Look:
    """How the readers are."""

    read: list[int]  #: bytes so far, of each who still reads
    ended: list[str]  #: why, of each who does not

    def require_progress_since(self, before: "Look") -> None:
        """Raises ReadersFailed unless nobody ended, and everybody was given something meanwhile."""
        if self.ended:
            raise ReadersFailed(f"{len(self.ended)} of the slow readers ended; the first: {self.ended[0]}")
        if starved := sum(now <= was for now, was in zip(self.read, before.read, strict=True)):
            raise ReadersFailed(f"{starved} of {len(self.read)} slow readers were given nothing during the load")


class Readers:
    """Readers who read in a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def look(self) -> Look:
        """How they are now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Look(**json.loads(self._process.stdout.readline()))

    def wait_until_settled(self, count: int) -> None:
        """Until each of them reads at its own pace; raises ReadersFailed where one ends or gets nothing."""
        nothing = Look([0] * count, [])
        deadline = time.monotonic() + _BEGIN_WITHIN
        while 0 in self.look().read and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        time.sleep(_SETTLE)
        self.look().require_progress_since(nothing)


@contextlib.contextmanager
def slow_readers(port: int, count: int) -> Iterator[Readers]:
    """So many readers; each of them reads at its own pace by now."""
    command = [sys.executable, "-m", "benchmarks.slow_readers", str(port), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        readers = Readers(process)
        readers.wait_until_settled(count)
        yield readers


class _Reader:
    def __init__(self) -> None:
        self.read = 0
        self.ended: str | None = None

    async def run(self, port: int) -> None:
        try:
            self.ended = await self._read_slowly(port)
        except OSError as error:
            self.ended = str(error)

    async def _read_slowly(self, port: int) -> str:
        """Gives why it came to an end."""
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            connection.setblocking(False)  # noqa: FBT003 - Python's own signature
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, b"GET /reporting/all HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while piece := await loop.sock_recv(connection, _PIECE):
                if not self.read and not piece.startswith(b"HTTP/1.1 200 "):
                    return piece.partition(b"\r\n")[0].decode()
                self.read += len(piece)
                await asyncio.sleep(_PAUSE)
        return f"hung up on after {self.read} bytes"


async def _main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    readers = [_Reader() for _ in range(count)]
    tasks = [asyncio.create_task(reader.run(port)) for reader in readers]
    while await asyncio.to_thread(sys.stdin.readline):
        look = {
            "read": [reader.read for reader in readers if reader.ended is None],
            "ended": [reader.ended for reader in readers if reader.ended is not None],
        }
        sys.stdout.write(json.dumps(look) + "\n")
        sys.stdout.flush()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
