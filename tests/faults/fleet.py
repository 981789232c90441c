"""The devices that answer: a process of its own that replies to commands, says what it is asked to say, and notes both.

`python -m faults.fleet <port> <file of hearings> <file of utterances>`

It is the listener with a voice: all devices in one session, so that what it says arrives in the order in which it notes
it, and a thousand of them cost no more than one.
"""

import contextlib
import dataclasses
import heapq
import itertools
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import mqtt5

from faults.ledger import number_of
from faults.listener import (
    CHUNK,
    COMMANDS,
    PROBE,
    RECONNECT_DELAY,
    SESSION_EXPIRY,
    PacketStream,
    operation_in,
    record,
    widen,
)
from faults.manners import Command, Reply, Way, replies_to
from support.ports import LOOPBACK

SAY: Final = "fleet/say"
"""Topic on which the fleet is asked to speak: the number of the request, and a list of what to say, as JSON.

An empty list asks for a note once all is said, and answered by the broker.
"""
LAST: Final = "last"  # the device that speaks behind all others
_DEVICES: Final = "devices"
_CLIENT: Final = "device-fleet"
_DELIVERED: Final = 0x00  # of a PUBACK: somebody was subscribed
_NO_SUBSCRIBER: Final = 0x10
_IDS: Final = 65_535


class Saying(NamedTuple):
    """What a device is to say, beside its replies."""

    imei: str
    topic: str  #: `reply` or `presence`
    payload: str
    retain: bool = False


@dataclass(slots=True)
class Utterance:
    """Something that a device said."""

    place: int  #: the order in which the broker got them
    at: float  #: when it left, time.time()
    imei: str
    topic: str  #: `reply` or `presence`
    message_id: str  #: the message it is about; empty: none
    number: int
    way: Way
    status: str  #: of a reply, that of its message once the gateway has it; of a presence, its text
    sha256: str
    code: int | None = None  #: the broker's answer; None: none came
    answered_at: float = 0.0

    @property
    def is_unheard(self) -> bool:
        """Whether the broker took a reply for nobody."""
        return self.code == _NO_SUBSCRIBER and self.topic == "reply" and self.imei != LAST

    @property
    def is_delivered(self) -> bool:
        """Whether the broker took it, and somebody was subscribed."""
        return self.code == _DELIVERED


class Utterances:
    """What the fleet has said so far, in order; `read()` catches up with its file."""

    def __init__(self, file: Path) -> None:
        self.all: list[Utterance] = []
        self.silences: set[int] = set()  #: requests after which all was said, and answered by the broker
        self._file = file.open("rb")
        self._rest = b""

    def read(self) -> Self:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            match json.loads(line):
                case ["said", *values]:
                    self.all.append(Utterance(*values))
                case ["answered", place, at, code]:
                    utterance = self.all[place]
                    if utterance.code is None:
                        utterance.code, utterance.answered_at = code, at
                case ["silent", request]:
                    self.silences.add(request)
        return self

    def close(self) -> None:
        self._file.close()


class _Due(NamedTuple):
    """What is to be said at a time."""

    at: float  #: time.monotonic()
    turn: int
    saying: Saying | Reply
    command: Command | None = None
    correlation_data: bytes | None = None


class _Fleet:
    """All devices, over all their connections."""

    def __init__(self, hearings: int, utterances: int) -> None:
        self._hearings = hearings
        self._utterances = utterances
        self._due: list[_Due] = []
        self._turns = itertools.count()
        self._places = itertools.count()
        self._ids = itertools.cycle(range(1, _IDS + 1))
        self._unanswered: dict[int, tuple[int, mqtt5.PublishPacket]] = {}  # by packet id: its place, and itself
        self._asked: list[int] = []  # whether all was said
        self._listens = False

    def serve(self, broker: socket.socket) -> None:
        """Listen and speak on one connection, until it ends; acknowledged is only what is in the file."""
        connect = mqtt5.ConnectPacket(_CLIENT, clean_start=False, session_expiry_interval=SESSION_EXPIRY, keep_alive=0)
        broker.sendall(connect.write())
        stream = PacketStream()
        while True:
            output = bytearray()
            if select.select([broker], [], [], self._seconds_left())[0]:
                chunk = broker.recv(CHUNK)
                if not chunk:
                    return
                for packet in stream.feed(chunk):
                    output += self._take(packet)
            output += self._say_what_is_due()
            if self._asked and not self._due and not self._unanswered:
                self._note(["silent", request] for request in self._asked)
                self._asked.clear()
            # A broker that was killed takes nothing any more; what its socket still holds is read to the end.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                broker.sendall(output)

    def _seconds_left(self) -> float | None:
        return max(0.0, self._due[0].at - time.monotonic()) if self._due else None

    def _take(self, packet: mqtt5.Packet) -> bytes:
        match packet:
            case mqtt5.PublishPacket(topic=topic):
                if topic == SAY:
                    self._asked_to_speak(packet)
                else:
                    os.write(self._hearings, record(packet))
                    if topic != PROBE:
                        self._received(packet)
                return b"" if packet.packet_id is None else mqtt5.PubAckPacket(packet.packet_id).write()
            case mqtt5.PubAckPacket():
                place, _ = self._unanswered.pop(packet.packet_id)
                self._note([["answered", place, time.time(), int(packet.reason_code)]])
            case mqtt5.ConnAckPacket(session_present=False):
                filters = [mqtt5.TopicFilter(each, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for each in (COMMANDS, SAY)]
                return mqtt5.SubscribePacket(_IDS, filters).write() + self._say_again()
            case mqtt5.ConnAckPacket():
                self._listening()
                return self._say_again()
            case mqtt5.SubAckPacket():
                self._listening()
        return b""

    def _listening(self) -> None:
        if not self._listens:
            self._listens = True
            sys.stdout.write("listening\n")
            sys.stdout.flush()

    def _received(self, packet: mqtt5.PublishPacket) -> None:
        imei = packet.topic.removeprefix(f"{_DEVICES}/")
        message_id = dict(packet.user_properties)["message-id"]
        command = Command(number_of(operation_in(packet.payload)), imei, message_id)
        now = time.monotonic()
        for reply in replies_to(command):
            self._plan(now + reply.delay, reply, command, packet.correlation_data)

    def _asked_to_speak(self, packet: mqtt5.PublishPacket) -> None:
        request, sayings = json.loads(packet.payload)
        if not sayings:
            self._asked.append(request)
        for saying in itertools.starmap(Saying, sayings):
            self._plan(time.monotonic(), saying)

    def _plan(self, at: float, *what: Any) -> None:
        heapq.heappush(self._due, _Due(at, next(self._turns), *what))

    def _say_what_is_due(self) -> bytes:
        now, said, packets = time.monotonic(), [], bytearray()
        while self._due and self._due[0].at <= now:
            due = heapq.heappop(self._due)
            utterance, packet = _utterance(due, next(self._places)), _packet(due, next(self._ids))
            self._unanswered[packet.packet_id or 0] = utterance.place, packet
            said.append(["said", *dataclasses.astuple(utterance)])
            packets += packet.write()
        self._note(said)
        return packets

    def _say_again(self) -> bytes:
        """What the broker has not answered, in its order."""
        packets = bytearray()
        for _, packet in self._unanswered.values():
            packet.duplicate = True
            packets += packet.write()
        return packets

    def _note(self, lines: Iterable[Sequence[object]]) -> None:
        os.write(self._utterances, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _utterance(due: _Due, place: int) -> Utterance:
    now = time.time()
    match due.saying, due.command:
        case Saying(imei, topic, text), _:
            return Utterance(place, now, imei, topic, "", 0, "none", text, sha256(text.encode()).hexdigest())
        case Reply(imei=imei, way=way, status=status, payload=payload), Command() as command:
            digest = sha256(payload).hexdigest()
            return Utterance(place, now, imei, "reply", command.id, command.number, way, status, digest)
        case never:
            raise AssertionError(never)


def _packet(due: _Due, packet_id: int) -> mqtt5.PublishPacket:
    at_least_once = mqtt5.QoS.AT_LEAST_ONCE
    saying = due.saying
    if isinstance(saying, Saying):
        topic, payload = f"{_DEVICES}/{saying.imei}/{saying.topic}", saying.payload.encode()
        return mqtt5.PublishPacket(topic, payload, qos=at_least_once, packet_id=packet_id, retain=saying.retain)
    return mqtt5.PublishPacket(
        f"{_DEVICES}/{saying.imei}/reply",
        saying.payload,
        qos=at_least_once,
        packet_id=packet_id,
        correlation_data=due.correlation_data if saying.correlates else None,
        user_properties=[] if saying.word is None else [("status", saying.word)],
    )


def main() -> None:
    """Serve the devices until killed."""
    port, *files = sys.argv[1:]
    fleet = _Fleet(*(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for file in files))
    while True:
        with contextlib.suppress(OSError), socket.socket() as broker:
            widen(broker)
            broker.connect((LOOPBACK, int(port)))
            fleet.serve(broker)
        time.sleep(RECONNECT_DELAY)


if __name__ == "__main__":
    main()
