"""MQTT 3.1.1 for a session, which speaks MQTT 5: its packets are rewritten as they leave, the broker's as they come.

Up to properties and reason codes the packets of both are the same, so no session needs to know which it speaks.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, cast

from chapar.link.frames import FrameInvalid, Frames
from chapar.link.limits import MAX_PACKET_SIZE
from chapar.link.packets import body_at, read_variable
from chapar.link.reason_codes import UNSUPPORTED_PROTOCOL_VERSION
from chapar.link.session import MAX_INCOMING_PACKET, Session

_CONNECT: Final = 1
_CONNACK: Final = 2
_PUBLISH: Final = 3
_ANSWERS: Final = {4, 5, 6, 7}  # PUBACK, PUBREC, PUBREL, PUBCOMP
_SUBSCRIBE: Final = 8
_SUBACK: Final = 9
_DISCONNECT: Final = 14

_PACKET_ID: Final = 2  # bytes; so long is the length of a text too
_NO_PROPERTIES: Final = b"\x00"
_MALFORMED: Final = b"\x00\x00"  # a packet of no type, at which the session ends with its sentence

# Bytes of CONNECT behind its fixed header (MQTT 3.1.1 §3.1.2); the protocol's name is before them.
_LEVEL_AT: Final = 6
_FLAGS_AT: Final = 7
_CLIENT_ID_AT: Final = 10
_LEVEL: Final = 4  # MQTT 3.1.1 §3.1.2.2
_WILL: Final = 0b100  # a flag
_QOS: Final = 0b11  # the one option of a subscription

_CONNACK_CODES: Final[Mapping[int, int]] = {  # MQTT 3.1.1 §3.2.2.3, and the reason codes of MQTT 5
    0: 0x00,
    1: UNSUPPORTED_PROTOCOL_VERSION,
    2: 0x85,
    3: 0x88,
    4: 0x86,
    5: 0x87,
}


class Mqtt3(asyncio.Protocol):
    """Stands between a session and a connection that speaks MQTT 3.1.1."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._frames = Frames(MAX_INCOMING_PACKET)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the session a transport that rewrites what it sends."""
        # A cast, because uvloop's transports are not subclasses of asyncio.Transport.
        self._session.connection_made(_Mqtt3Transport(cast("asyncio.Transport", transport)))

    def data_received(self, data: bytes) -> None:
        """Give the session whole packets, rewritten."""
        packets = bytearray()
        try:
            for frame in self._frames.feed(data):
                packets += to_mqtt5(frame)
        except FrameInvalid:
            packets += _MALFORMED
        self._session.data_received(bytes(packets))

    def pause_writing(self) -> None:
        """Pass it on."""
        self._session.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._session.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._session.connection_lost(exc)


class _Mqtt3Transport(asyncio.Transport):
    """Takes whole packets of MQTT 5, and sends them as those of MQTT 3.1.1."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(b"".join(map(to_mqtt3, Frames(MAX_PACKET_SIZE).feed(bytes(data)))))

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)


def to_mqtt3(frame: memoryview) -> bytes:
    """One packet of a session without what MQTT 3.1.1 does not have."""
    body = bytes(frame[body_at(frame) :])
    kind = frame[0] >> 4
    if kind == _CONNECT:
        body = _connect(body)
    elif kind == _PUBLISH:
        body = _without_properties(body, _behind_publish_head(frame[0], body))
    elif kind == _SUBSCRIBE:
        body = _subscribe(_without_properties(body, _PACKET_ID))
    elif kind in _ANSWERS:
        body = body[:_PACKET_ID]
    elif kind == _DISCONNECT:
        body = b""
    return _packet(frame[0], body)


def to_mqtt5(frame: memoryview) -> bytes:
    """One packet of a broker with what MQTT 5 has besides."""
    body = bytes(frame[body_at(frame) :])
    kind = frame[0] >> 4
    if kind == _CONNACK:
        body = body[:1] + bytes(_CONNACK_CODES.get(code, code) for code in body[1:]) + _NO_PROPERTIES
    elif kind == _PUBLISH:
        place = _behind_publish_head(frame[0], body)
        body = body[:place] + _NO_PROPERTIES + body[place:]
    elif kind == _SUBACK:
        body = body[:_PACKET_ID] + _NO_PROPERTIES + body[_PACKET_ID:]
    return _packet(frame[0], body)


def _connect(body: bytes) -> bytes:
    """CONNECT; clean start 1 is clean session 1, and a session that is not clean is kept for as long as brokers do."""
    body = _without_properties(body, _CLIENT_ID_AT)
    body = body[:_LEVEL_AT] + bytes([_LEVEL]) + body[_FLAGS_AT:]
    if body[_FLAGS_AT] & _WILL:
        body = _without_properties(body, _behind_text(body, _CLIENT_ID_AT))
    return body


def _subscribe(body: bytes) -> bytes:
    changed, position = bytearray(body), _PACKET_ID
    while position < len(body):
        position = _behind_text(body, position)
        changed[position] &= _QOS
        position += 1
    return bytes(changed)


def _behind_publish_head(first: int, body: bytes) -> int:
    """The place of the properties of a PUBLISH: behind the topic and, but at QoS 0, the packet id."""
    return _behind_text(body, 0) + (_PACKET_ID if first >> 1 & _QOS else 0)


def _behind_text(body: bytes, position: int) -> int:
    return position + _PACKET_ID + int.from_bytes(body[position : position + _PACKET_ID], "big")


def _without_properties(body: bytes, position: int) -> bytes:
    length, begin = read_variable(memoryview(body), position)
    return body[:position] + body[begin + length :]


def _packet(first: int, body: bytes) -> bytes:
    """A packet from its first byte and what is behind its length (MQTT 3.1.1 §2.2.3)."""
    header, left = bytearray([first]), len(body)
    while left > 0x7F:  # noqa: PLR2004 - seven bits of it in each byte
        header.append(left & 0x7F | 0x80)
        left >>= 7
    header.append(left)
    return bytes(header) + body
