"""A broker that says what the test tells it to: for what no real broker does on demand."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

import mqtt5

from support.apart import receives
from support.ports import LOOPBACK

CONNACK = mqtt5.ConnAckPacket().write()


class FakeBroker:
    """Answers CONNECT with `connack` (nothing where it is empty), and everything else not at all.

    `packet()` gives what it hears, CONNECT left out; `send()` writes bytes to the newest connection. The connections
    with which a gateway receives are apart from that: they get what they ask for, and nothing comes over them.
    """

    def __init__(self, connack: bytes = CONNACK) -> None:
        self.connack = connack
        self.connections = 0
        self.connected = asyncio.Event()
        self.on_connect: Callable[[mqtt5.ConnectPacket], object] | None = None
        self._heard: asyncio.Queue[mqtt5.Packet | None] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []  # without those apart
        self._accepted: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"mqtt://{LOOPBACK}:{self.port}"

    async def packet(self) -> mqtt5.Packet | None:
        """The next packet heard; None where the connection ended instead."""
        return await asyncio.wait_for(self._heard.get(), 60.0)

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
        for writer in self._accepted:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.append(writer)
        heard, is_apart = b"", False
        with contextlib.suppress(OSError):
            while data := await reader.read(64 * 1024):
                packets, heard = _split(heard + data)
                for packet in packets:
                    if isinstance(packet, mqtt5.ConnectPacket):
                        is_apart = receives(packet)
                        self._connect(packet, writer, is_apart=is_apart)
                    elif is_apart:
                        writer.write(_granted(packet))
                    else:
                        self._heard.put_nowait(packet)
        writer.close()
        if not is_apart:
            self._heard.put_nowait(None)

    def _connect(self, packet: mqtt5.ConnectPacket, writer: asyncio.StreamWriter, *, is_apart: bool) -> None:
        writer.write(self.connack)
        if is_apart:
            return
        self._writers.append(writer)
        self.connections += 1
        if self.on_connect is not None:
            self.on_connect(packet)
        self.connected.set()


def _split(data: bytes) -> tuple[list[mqtt5.Packet], bytes]:
    """The packets that are there whole, and what has come of the next one."""
    packets = []
    with contextlib.suppress(IndexError):
        while True:
            packet, size = mqtt5.read(memoryview(data))
            packets.append(packet)
            data = data[size:]
    return packets, data


def _granted(packet: mqtt5.Packet) -> bytes:
    """The answer to what a connection that receives asks for."""
    match packet:
        case mqtt5.SubscribePacket():
            codes = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            return mqtt5.SubAckPacket(packet.packet_id, codes).write()
        case mqtt5.PublishPacket(packet_id=int() as packet_id):
            return mqtt5.PubAckPacket(packet_id).write()
        case mqtt5.PingReqPacket():
            return mqtt5.PingRespPacket().write()
        case _:
            return b""
