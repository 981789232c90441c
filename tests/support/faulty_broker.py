"""A small MQTT 5 broker that answers as a broker does, but where its script answers instead."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import mqtt5

from support.apart import receives
from support.ports import LOOPBACK

CONNACK = mqtt5.ConnAckPacket().write()


class Peer:
    """One client's connection. A script answers on it; whatever it does is done in the broker's own thread."""

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        self.number = number  #: 1 for the first connection
        self.is_mute = False  #: whether nothing is answered any more, as a dead broker does
        self.is_apart = False  #: whether a gateway receives over it, and no script answers
        self._writer = writer

    def write(self, data: bytes) -> None:
        if not self.is_mute:
            self._writer.write(data)

    def close(self) -> None:
        """Hang up in good order, behind what was written."""
        self._writer.close()

    def reset(self) -> None:
        """Hang up at once (RST)."""
        self._writer.transport.abort()


Script = Callable[[Peer, mqtt5.Packet], bool]
"""Called with each packet, CONNECT included; True where it has dealt with it, and nothing else is to be answered."""


def acknowledgement(packet_id: int, code: int, kind: int = 0x40) -> bytes:
    """PUBACK (0x40), PUBREC (0x50) or PUBCOMP (0x70) with any reason code, also one that the standard does not list."""
    return bytes([kind, 3, *packet_id.to_bytes(2, "big"), code])


def disconnect(code: int) -> bytes:
    """DISCONNECT with any reason code."""
    return bytes([0xE0, 1, code])


class FaultyBroker:
    """Acknowledges everything and passes nothing on. Runs in a thread, so tests of both kinds may use it.

    `with FaultyBroker(script) as broker:`; `broker.publications` is what it was sent. On `port` where one is given, so
    that it can go and come back. The connections over which a gateway receives are apart from all that, but where
    `scripts_receivers`.
    """

    scripts_receivers = False

    def __init__(
        self,
        script: Script | None = None,
        *,
        connack: bytes = CONNACK,
        port: int = 0,
        host: str = LOOPBACK,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.connack = connack
        self.port = port
        self.host = host
        self.peers: list[Peer] = []  #: one for each CONNECT
        self.publications: list[mqtt5.PublishPacket] = []
        self.packets: list[mqtt5.Packet] = []  #: all of them
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty broker", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"{'mqtts' if self._tls else 'mqtt'}://{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """CONNECT packets so far."""
        return len(self.peers)

    def operations(self, topic_end: str = "") -> list[str]:
        """What was published to topics that end so, as text."""
        return [each.payload.decode() for each in self.publications if each.topic.endswith(topic_end)]

    def send(self, data: bytes) -> None:
        """Write to the newest connection."""
        self._loop.call_soon_threadsafe(lambda: self.peers[-1].write(data))

    def hang_up(self) -> None:
        self._loop.call_soon_threadsafe(self.peers[-1].close)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(60.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()  # a handshake under way waits for a client that may wait for us
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        peer = Peer(len(self.peers) + 1, writer)
        heard = b""
        with contextlib.suppress(OSError, ValueError):  # what is not MQTT ends the connection
            while data := await reader.read(64 * 1024):
                heard = self._take(peer, heard + data)
        writer.close()

    def _take(self, peer: Peer, heard: bytes) -> bytes:
        with contextlib.suppress(IndexError):
            while True:
                packet, size = mqtt5.read(memoryview(heard))
                heard = heard[size:]
                if isinstance(packet, mqtt5.ConnectPacket):
                    peer.is_apart = receives(packet) and not self.scripts_receivers
                if peer.is_apart:
                    peer.write(self._answer(packet))
                    continue
                self.packets.append(packet)
                if isinstance(packet, mqtt5.ConnectPacket):
                    peer.number = len(self.peers) + 1
                    self.peers.append(peer)
                elif isinstance(packet, mqtt5.PublishPacket):
                    self.publications.append(packet)
                if self.script is None or not self.script(peer, packet):
                    peer.write(self._answer(packet))
        return heard

    def _answer(self, packet: mqtt5.Packet) -> bytes:
        answer: bytes = b""
        match packet:
            case mqtt5.ConnectPacket():
                answer = self.connack
            case mqtt5.PublishPacket(packet_id=int(packet_id), qos=mqtt5.QoS.AT_LEAST_ONCE):
                answer = mqtt5.PubAckPacket(packet_id).write()
            case mqtt5.PublishPacket(packet_id=int(packet_id)):
                answer = mqtt5.PubRecPacket(packet_id).write()
            case mqtt5.PubRelPacket():
                answer = mqtt5.PubCompPacket(packet.packet_id).write()
            case mqtt5.SubscribePacket():
                granted = [mqtt5.SubAckReasonCode(int(each.max_qos)) for each in packet.topic_filters]
                answer = mqtt5.SubAckPacket(packet.packet_id, granted).write()
            case mqtt5.PingReqPacket():
                answer = mqtt5.PingRespPacket().write()
        return answer
