"""A broker that says what the test tells it to: for what no real broker does on demand."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

import mqtt5

from support.ports import LOOPBACK

CONNACK = mqtt5.ConnAckPacket().write()


class FakeBroker:
    """Answers CONNECT with `connack` (nothing where it is empty), and everything else not at all.

    `packet()` gives what it hears, CONNECT left out; `send()` writes bytes to the newest connection.
    """

    def __init__(self, connack: bytes = CONNACK) -> None:
        self.connack = connack
        self.connections = 0
        self.connected = asyncio.Event()
        self.on_connect: Callable[[mqtt5.ConnectPacket], object] | None = None
        self._heard: asyncio.Queue[mqtt5.Packet | None] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"mqtt://{LOOPBACK}:{self.port}"

    async def packet(self) -> mqtt5.Packet | None:
        """The next packet heard; None where the connection ended instead."""
        return await asyncio.wait_for(self._heard.get(), 5.0)

    async def publish(self) -> mqtt5.PublishPacket:
        """The next packet, which is a PUBLISH."""
        packet = await self.packet()
        assert isinstance(packet, mqtt5.PublishPacket)
        return packet

    def send(self, data: bytes) -> None:
        self._writers[-1].write(data)

    def hang_up(self) -> None:
        self._writers[-1].close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connections += 1
        heard = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(64 * 1024):
                heard = self._take(heard + data, writer)
        self._heard.put_nowait(None)

    def _take(self, heard: bytes, writer: asyncio.StreamWriter) -> bytes:
        with contextlib.suppress(IndexError):
            while True:
                packet, size = mqtt5.read(memoryview(heard))
                heard = heard[size:]
                if isinstance(packet, mqtt5.ConnectPacket):
                    if self.on_connect is not None:
                        self.on_connect(packet)
                    writer.write(self.connack)
                    self.connected.set()
                else:
                    self._heard.put_nowait(packet)
        return heard
