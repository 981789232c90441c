"""A lean HTTP client: one keep-alive connection for each caller, so that callers cost little beside what they test."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from support.ports import LOOPBACK

PATIENCE: Final = 4.0  # seconds until a caller hangs up; above the gateway's own


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes


class NoAnswer(Exception):
    """The connection was refused or ended, or nothing came in time: nobody knows what became of the request."""


class Connection:
    """One caller's connection to the gateway; to any of them, where there are several."""

    def __init__(self, ports: Sequence[int], patience: float = PATIENCE) -> None:
        self._ports = ports
        self._patience = patience
        self._port = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connected(self) -> bool:
        """Whether a gateway accepts the connection now."""
        try:
            await self._open()
        except OSError:
            return False
        return True

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Raises NoAnswer."""
        return await self._ask(_request("POST", path, body, headers or {}))

    async def get(self, path: str) -> Reply:
        """Raises NoAnswer."""
        return await self._ask(_request("GET", path, b"", {}))

    async def put(self, path: str, body: bytes) -> Reply:
        """Raises NoAnswer."""
        return await self._ask(_request("PUT", path, body, {}))

    async def post_and_hang_up(self, path: str, body: bytes, after: float) -> None:
        """Send a request and close `after` seconds later without reading; raises NoAnswer."""
        try:
            _, writer = await self._open()
            writer.write(_request("POST", path, body, {}))
            await writer.drain()
            await asyncio.sleep(after)
        except OSError as error:
            raise NoAnswer from error
        finally:
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _ask(self, request: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._patience):
                reader, writer = await self._open()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await _body(reader, head)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise NoAnswer from error
        except BaseException:
            self.close()
            raise
        if _header(head, b"connection") == b"close":
            self.close()
        return Reply(int(head[9:12]), body)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = random.choice(self._ports)
        if port != self._port:
            self.close()
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(LOOPBACK, port, limit=1 << 22)
            self._port = port
        return self._reader, self._writer


def _request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body of an answer, which may come in chunks; raises EOFError where it is cut short."""
    if _header(head, b"transfer-encoding") != b"chunked":
        return await reader.readexactly(int(_header(head, b"content-length")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip().lower()
    return b""
