"""`python -m benchmarks.slow_readers PORT COUNT`: so many readers of the whole report, in no hurry."""

import asyncio
import socket
import sys

_PIECE = 4096  # bytes read …
_PAUSE = 1.0  # … every so many seconds: a poor cellular connection
_BUFFER = 16 * 1024  # bytes that the kernel keeps for a reader: more would hide how slow it is


async def read_slowly(port: int) -> None:
    """Read the report again and again until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            connection.setblocking(False)  # noqa: FBT003 - Python's own signature
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, b"GET /reporting/all HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while await loop.sock_recv(connection, _PIECE):  # noqa: ASYNC110 - nothing tells when a slow reader reads
                await asyncio.sleep(_PAUSE)


async def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    async with asyncio.TaskGroup() as readers:
        for _ in range(count):
            readers.create_task(read_slowly(port))


if __name__ == "__main__":
    asyncio.run(main())
