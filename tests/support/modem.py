"""A device at the end of a radio link, as seen from its carrier: cheap enough for a thousand of them in one process."""

import asyncio
import contextlib
import math
import time

import mqtt5

from chapar.link.frames import Frames
from support.ports import LOOPBACK

_ANY_SIZE = 2**28  # bytes
_HOUR = 3600  # seconds for which the broker keeps the session


class Modem:
    """One device on MQTT 5 that acknowledges each command; `heard` holds when each operation arrived, by its name.

    A carrier `forwards_for` so many seconds after the device's last packet. What comes later is lost, and the
    connection with it, which the device notices when it speaks the next time.
    """

    def __init__(self, port: int, imei: str, *, persistent: bool = False, forwards_for: float = math.inf) -> None:
        self.imei = imei
        self.heard: dict[str, float] = {}  #: times by `time.monotonic`, of the last arrival
        self._port = port
        self._persistent = persistent
        self._forwards_for = forwards_for
        self._spoke_at = 0.0
        self._is_lost = True  # the connection
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()

    async def connect(self) -> None:
        """Begin a session, or go on with the one that the broker kept."""
        await self.drop()
        reader, self._writer = await asyncio.open_connection(LOOPBACK, self._port)
        self._is_lost = False
        self._reading = asyncio.create_task(self._read(reader))
        packet = mqtt5.ConnectPacket(
            f"modem-{self.imei}",
            clean_start=not self._persistent,
            keep_alive=0,
            session_expiry_interval=_HOUR if self._persistent else 0,
        )
        await self._ask(packet)

    async def subscribe(self) -> None:
        filters = [mqtt5.TopicFilter(f"devices/{self.imei}", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]
        await self._ask(mqtt5.SubscribePacket(1, filters))

    async def announce(self) -> None:
        """Say that it is there."""
        topic = f"devices/{self.imei}/presence"
        await self._ask(mqtt5.PublishPacket(topic, b"online", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=2))

    async def speak(self) -> None:
        """Say that it is there, on a new connection where the last one was lost."""
        if self._is_lost:
            await self.connect()
            await self.subscribe()
        await self.announce()

    async def drop(self) -> None:
        """Be gone without a word."""
        self._is_lost = True
        if self._writer is not None:
            self._writer.transport.abort()
        if self._reading is not None:
            await self._reading
        self._writer = self._reading = None

    async def _ask(self, packet: mqtt5.Packet) -> None:
        self._answered.clear()
        self._write(packet)
        async with asyncio.timeout(60):
            await self._answered.wait()

    def _write(self, packet: mqtt5.Packet) -> None:
        assert self._writer is not None
        self._spoke_at = time.monotonic()
        self._writer.write(packet.write())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = Frames(_ANY_SIZE)
        with contextlib.suppress(OSError):
            while data := await reader.read(64 * 1024):
                for frame in frames.feed(data):
                    packet, _ = mqtt5.read(frame)
                    self._take(packet)
                if self._is_lost:
                    return

    def _take(self, packet: mqtt5.Packet) -> None:
        now = time.monotonic()
        self._is_lost = self._is_lost or now - self._spoke_at > self._forwards_for
        if self._is_lost:
            return
        if isinstance(packet, mqtt5.PublishPacket):
            self.heard[packet.payload.decode()] = now
            if packet.packet_id is not None:
                self._write(mqtt5.PubAckPacket(packet.packet_id))
        else:
            self._answered.set()
