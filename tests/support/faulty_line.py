"""A line between a gateway and its broker that knows MQTT packets, and fails at some of them."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

import mqtt5

from chapar.link.frames import Frames
from support.apart import receives
from support.ports import LOOPBACK

_ANY_SIZE = 1 << 28  # bytes

_CONNECT, PUBLISH, PUBACK = 1, 3, 4


class Way:
    """One connection: the gateway's, and its continuation to the broker."""

    def __init__(self, gateway: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.to_gateway = gateway
        self.to_broker = broker
        self.is_mute = False  #: whether nothing passes any more, in either direction
        self.is_apart = False  #: whether the gateway receives over it, and no script has a say


Script = Callable[[Way, bytes], bool]
"""Called with each packet of one direction; True where it has dealt with it, and it is not to be passed on."""


class FaultyLine:
    """Listens on `port` and passes packets on, but those that a script deals with.

    What a gateway receives, over connections of their own, passes as it is, and these are not counted.
    """

    def __init__(self, target_port: int, from_gateway: Script, from_broker: Script | None = None) -> None:
        self._target_port = target_port
        self._from_gateway = from_gateway
        self._from_broker = from_broker or (lambda _way, _packet: False)
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.port = 0

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

    async def _serve(self, reader: asyncio.StreamReader, gateway: asyncio.StreamWriter) -> None:
        self._writers.append(gateway)
        broker_reader, broker = await asyncio.open_connection(LOOPBACK, self._target_port)
        self._writers.append(broker)
        way = Way(gateway, broker)
        await asyncio.gather(
            _pump(way, reader, broker, self._outbound), _pump(way, broker_reader, gateway, self._inbound)
        )

    def _outbound(self, way: Way, packet: bytes) -> bool:
        if packet[0] >> 4 == _CONNECT:
            connect, _ = mqtt5.read(memoryview(packet))
            assert isinstance(connect, mqtt5.ConnectPacket)
            way.is_apart = receives(connect)
            self.connections += not way.is_apart
        return not way.is_apart and self._from_gateway(way, packet)

    def _inbound(self, way: Way, packet: bytes) -> bool:
        return not way.is_apart and self._from_broker(way, packet)


async def _pump(way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter, script: Script) -> None:
    frames = Frames(_ANY_SIZE)
    with contextlib.suppress(OSError):
        while data := await source.read(256 * 1024):
            for frame in frames.feed(data):
                packet = bytes(frame)
                if not way.is_mute and not script(way, packet) and not way.is_mute and not sink.is_closing():
                    sink.write(packet)
    sink.close()
