"""A strict reading of what a connected client sends, after the standard and without the codec that wrote it."""

import unicodedata
from dataclasses import dataclass, field
from typing import Final

_PUBLISH: Final = 3
_PUBREL: Final = 0x62  # type and flags
_PINGREQ: Final = 0xC0
_LARGEST: Final = 268_435_455  # MQTT 5.0 §1.5.5

_USER_PROPERTY: Final = 0x26
_BYTES_OF: Final = {0x01: 1, 0x02: 4, 0x23: 2}  # payload format, message expiry, topic alias: numbers of fixed size
_TEXTS: Final = {0x03, 0x08}  # content type, response topic
_BINARY: Final = 0x09  # correlation data


class Illegal(ValueError):
    """The bytes are no PUBLISH that a client may send; the text says why."""


@dataclass(frozen=True, slots=True)
class Publish:
    """One PUBLISH packet."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int | None
    properties: dict[int, int | str | bytes] = field(default_factory=dict)
    user_properties: list[tuple[str, str]] = field(default_factory=list)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise Illegal(f"{size} bytes are announced where {self.left} are left")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def variable(self) -> int:
        value = 0
        for place in range(4):
            byte = self.number(1)
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if place and not byte:
                    raise Illegal("a number that is longer than it need be")
                return value
        raise Illegal("a number of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            text = self.binary().decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise Illegal(f"text that is not UTF-8: {error}") from error
        if any(_is_forbidden(character) for character in text):
            raise Illegal(f"characters that end a session: {text!r}")
        return text

    def topic(self) -> str:
        topic = self.text()
        if not topic or set(topic) & set("+#"):
            raise Illegal(f"the topic {topic!r}")
        return topic


def parse(data: bytes) -> list[Publish]:
    """The PUBLISH packets of a stream; raises Illegal where it holds anything but whole and legal packets."""
    reader = _Reader(data)
    packets = []
    while reader.left:
        first = reader.number(1)
        length = reader.variable()
        if length > _LARGEST:
            raise Illegal(f"a packet of {length} bytes")
        body = _Reader(reader.take(length))
        if first >> 4 == _PUBLISH:
            packets.append(_publish(first & 0x0F, body))
        elif first == _PUBREL:
            if length != 2 or body.number(2) == 0:
                raise Illegal("a PUBREL of nothing, or with a reason")
        elif first != _PINGREQ or length:
            raise Illegal(f"a packet that begins with {first:#04x}")
    return packets


def _publish(flags: int, body: _Reader) -> Publish:
    dup, qos, retain = bool(flags & 8), flags >> 1 & 3, bool(flags & 1)
    if qos == 3 or (dup and not qos):
        raise Illegal(f"the flags {flags:#x}")
    topic = body.topic()
    packet_id = body.number(2) if qos else None
    if packet_id == 0:
        raise Illegal("packet id 0")
    properties, user_properties = _properties(_Reader(body.take(body.variable())))
    return Publish(topic, body.take(body.left), qos, retain, dup, packet_id, properties, user_properties)


def _properties(reader: _Reader) -> tuple[dict[int, int | str | bytes], list[tuple[str, str]]]:
    found: dict[int, int | str | bytes] = {}
    user_properties = []
    while reader.left:
        identifier = reader.variable()
        if identifier == _USER_PROPERTY:
            user_properties.append((reader.text(), reader.text()))
            continue
        if identifier in found:
            raise Illegal(f"property {identifier:#x} twice")
        if identifier in _BYTES_OF:
            found[identifier] = reader.number(_BYTES_OF[identifier])
        elif identifier in _TEXTS:
            found[identifier] = reader.topic() if identifier == 0x08 else reader.text()
        elif identifier == _BINARY:
            found[identifier] = reader.binary()
        else:
            raise Illegal(f"property {identifier:#x}, which no client sends with PUBLISH")
    return found, user_properties


def _is_forbidden(character: str) -> bool:
    """MQTT 5.0 §1.5.4: NUL must not be there, controls and non-characters should not, and brokers hang up on them."""
    code_point = ord(character)
    is_noncharacter = (code_point & 0xFFFF) >= 0xFFFE or 0xFDD0 <= code_point <= 0xFDEF
    return is_noncharacter or unicodedata.category(character) in {"Cc", "Cs"}
