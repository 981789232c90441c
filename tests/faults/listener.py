"""The device: a process of its own that subscribes to all commands and writes down what it hears, and when.

`python -m faults.listener <port> <file>`

Its own few lines of MQTT take a tenth of what paho would: on a small machine the device must not be what is measured.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self
from uuid import UUID

import mqtt5

from faults.ledger import number_of
from support.ports import LOOPBACK

_RECORD: Final = struct.Struct("<qdHBI16s")
PROBE: Final = "devices/probe"
COMMANDS: Final = "devices/+"
_CLIENT: Final = "device-fleet"
SESSION_EXPIRY: Final = 3600  # seconds a broker keeps the session
_SO_RCVBUFFORCE: Final = 33  # socket(7); Python does not name it
RECONNECT_DELAY: Final = 0.05  # seconds; a real device waits longer, a test should not
CHUNK: Final = 256 * 1024  # bytes read at a time
_BUFFER: Final = 64 * 1024 * 1024  # bytes that the kernel holds for us: what is still the broker's dies with the broker


class Hearing(NamedTuple):
    """One message as it arrived."""

    number: int
    at: float  #: time.time()
    attempt: int
    redelivered: bool  #: the broker's own repetition, after the device was away
    topic: int  #: CRC 32
    id: str


class Hearings:
    """What the device has heard so far, in order; `read()` catches up with its file."""

    def __init__(self, file: Path) -> None:
        self.all: list[Hearing] = []
        self.numbers: set[int] = set()
        self.probes: set[int] = set()
        self._file = file.open("rb")
        self._rest = b""

    def read(self) -> Self:
        data = self._rest + self._file.read()
        whole = len(data) - len(data) % _RECORD.size
        self._rest = data[whole:]
        for number, at, attempt, redelivered, topic, id_ in _RECORD.iter_unpack(data[:whole]):
            if number < 0:
                self.probes.add(-number)
                continue
            self.all.append(Hearing(number, at, attempt, bool(redelivered), topic, str(UUID(bytes=id_))))
            self.numbers.add(number)
        return self

    def close(self) -> None:
        self._file.close()


def topic_of(imei: str) -> int:
    """The CRC 32 of a device's topic, as hearings hold it."""
    return zlib.crc32(f"devices/{imei}".encode())


def record(heard: mqtt5.PublishPacket) -> bytes:
    """A hearing as its file has it."""
    now = time.time()
    if heard.topic == PROBE:
        return _RECORD.pack(-int(heard.payload), now, 0, 0, 0, bytes(16))
    properties = dict(heard.user_properties)
    return _RECORD.pack(
        number_of(operation_in(heard.payload)),
        now,
        int(properties.get("attempt", 1)),
        heard.duplicate,
        zlib.crc32(heard.topic.encode()),
        UUID(properties["message-id"]).bytes,
    )


def operation_in(payload: bytes) -> str:
    """The operation of a command, alone or in its envelope."""
    return str(json.loads(payload)["micro_op"]) if payload.startswith(b"{") else payload.decode()


def widen(broker: socket.socket) -> None:
    """Let the kernel hold much for us; beyond its usual bound only where we may."""
    try:
        broker.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        broker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


def _listen(broker: socket.socket, file: int, on_listening: Callable[[], None]) -> None:
    """Write down what one connection brings, until it ends; acknowledged is only what is in the file."""
    connect = mqtt5.ConnectPacket(_CLIENT, clean_start=False, session_expiry_interval=SESSION_EXPIRY, keep_alive=0)
    broker.sendall(connect.write())
    stream = PacketStream()
    while chunk := broker.recv(CHUNK):
        packets = stream.feed(chunk)
        records, replies = bytearray(), bytearray()
        for packet in packets:
            match packet:
                case mqtt5.PublishPacket():
                    records += record(packet)
                    if packet.packet_id is not None:
                        replies += mqtt5.PubAckPacket(packet.packet_id).write()
                case mqtt5.ConnAckPacket(session_present=False):
                    commands = mqtt5.TopicFilter(COMMANDS, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
                    replies += mqtt5.SubscribePacket(1, [commands]).write()
                case mqtt5.ConnAckPacket() | mqtt5.SubAckPacket():
                    on_listening()
        if records:
            os.write(file, records)
        # A broker that was killed takes no answer any more; what its socket still holds is read to the end.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            broker.sendall(replies)


class PacketStream:
    """Whole packets out of the portions in which bytes come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[mqtt5.Packet]:
        """The packets that this portion ends."""
        self._rest += chunk
        unread, packets = memoryview(self._rest), []
        with contextlib.suppress(IndexError):  # of the last packet a part is still to come
            while unread:
                packet, length = mqtt5.read(unread)
                packets.append(packet)
                unread = unread[length:]
        self._rest = bytes(unread)
        return packets


def main() -> None:
    """Listen until killed."""
    file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    said = False

    def say() -> None:
        nonlocal said
        if not said:
            said = True
            sys.stdout.write("listening\n")
            sys.stdout.flush()

    while True:
        with contextlib.suppress(OSError), socket.socket() as broker:
            widen(broker)
            broker.connect((LOOPBACK, int(sys.argv[1])))
            _listen(broker, file, say)
        time.sleep(RECONNECT_DELAY)


if __name__ == "__main__":
    main()
