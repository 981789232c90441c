"""Packets as the broker wrote them: the codec refuses each reason code that the standard does not list for a packet."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import mqtt5

from chapar.errors import BrokerWords
from chapar.link.frames import FrameInvalid
from chapar.link.reason_codes import SUCCESS
from chapar.model.lines import plain

MAX_WORDS: Final = 200  # characters of what a broker says about itself
_QUOTES: Final = str.maketrans("“”«»", '""""')  # what they are quoted with is not in them

_PACKET_ID: Final = 2  # bytes
_PUBACK: Final = 0x40
_BARE_PUBACK: Final = 4  # bytes: 40 02 and the packet id
_BEFORE_CODE: Final[Mapping[int, int]] = {  # bytes between the fixed header and the reason code, by packet type
    2: 1,  # CONNACK: its flags
    4: _PACKET_ID,  # PUBACK
    5: _PACKET_ID,  # PUBREC
    6: _PACKET_ID,  # PUBREL
    7: _PACKET_ID,  # PUBCOMP
    14: 0,  # DISCONNECT
    15: 0,  # AUTH
}
_STRINGS: Final[Mapping[int, int]] = {0x03: 1, 0x08: 1, 0x26: 2}  # in a property of PUBLISH (MQTT 5.0 §3.3.2.3)
_NUMBERS: Final[Mapping[int, int]] = {0x01: 1, 0x02: 4, 0x23: 2}  # bytes of one
_BINARY: Final = 0x09
_VARIABLE: Final = 0x0B
_QOS: Final = 0b110  # of the first byte
_NO_QOS: Final = 0b11  # MQTT 5.0 §3.3.1.2
_CODES_AT_END: Final = {9, 11}  # SUBACK and UNSUBACK: behind the properties, one for each filter


class Received(NamedTuple):
    """One packet, and its reason codes where the codec refuses one of them: then Success stands there instead."""

    packet: mqtt5.Packet
    unlisted: bytes = b""  #: as they were written, one for each filter of a SUBACK; empty where all are listed


def read_packet(frame: memoryview) -> Received:
    """Read one whole packet, whatever its reason codes; raises FrameInvalid where it is malformed."""
    try:
        return Received(_decoded(frame))
    except FrameInvalid:
        place = _reason_codes(frame)
        codes = bytes(frame[place])
        if not any(codes):
            raise
        listed = bytearray(frame)
        listed[place] = bytes([SUCCESS]) * len(codes)  # which every packet may have
        return Received(_decoded(memoryview(listed)), codes)


def read_puback(frame: memoryview) -> tuple[int, int] | None:
    """The packet id and the reason code of a PUBACK as nearly all are, without properties; None for anything else.

    It needs no codec: two bytes of packet id, then none, a reason code, or a reason code and the length 0 (MQTT 5.0
    §3.4.2).
    """
    length = len(frame)
    if frame[0] != _PUBACK or frame[1] != length - 2:
        return None
    if length == _BARE_PUBACK:
        return frame[2] << 8 | frame[3], SUCCESS
    if length == _BARE_PUBACK + 1 or (length == _BARE_PUBACK + 2 and not frame[5]):
        return frame[2] << 8 | frame[3], frame[4]
    return None


def read_publish(frame: memoryview) -> tuple[int, int]:
    """The QoS of a PUBLISH and its packet id, 0 where it has none; the rest is not looked at.

    Raises FrameInvalid where they are not there.
    """
    qos = (frame[0] & _QOS) >> 1
    if qos == 0:
        return 0, 0
    topic = body_at(frame)
    id_at = topic + 2 + _length(frame, topic)
    packet_id = int.from_bytes(frame[id_at : id_at + _PACKET_ID], "big")
    if qos == _NO_QOS or not packet_id:
        raise FrameInvalid("a PUBLISH without a quality of service or a packet id")
    return qos, packet_id


def check_text(frame: memoryview) -> None:
    """Raise FrameInvalid where a PUBLISH has text that is not UTF-8; what else is wrong with it the codec finds.

    The codec would panic about it, and a panic prints lines to stderr: as many as a device wants, where a broker passes
    such text on.
    """
    begin = body_at(frame)
    topic_end = begin + 2 + _length(frame, begin)
    size, position = read_variable(frame, topic_end + (_PACKET_ID if frame[0] & _QOS else 0))
    end = min(position + size, len(frame))
    if bytes(frame[begin:end]).isascii():
        return
    try:
        str(frame[begin + 2 : topic_end], "utf-8")
        while position < end:
            kind = frame[position]
            position += 1 + _NUMBERS.get(kind, 0)
            for _ in range(_STRINGS.get(kind, 0)):
                text = position + 2
                position = text + _length(frame, position)
                str(frame[text:position], "utf-8")
            if kind == _BINARY:
                position += 2 + _length(frame, position)
            elif kind == _VARIABLE:
                position = read_variable(frame, position)[1]
    except UnicodeDecodeError as error:
        raise FrameInvalid("text that is not UTF-8") from error


def words_of(packet: mqtt5.ConnAckPacket | mqtt5.DisconnectPacket) -> BrokerWords:
    """Return the broker's own words about it, printable and short, so that they cannot be taken for ours."""
    return BrokerWords(_shown(packet.reason_str), _shown(packet.server_reference))


def _shown(text: str | None) -> str:
    return plain((text or "")[:MAX_WORDS]).translate(_QUOTES)


def _decoded(frame: memoryview) -> mqtt5.Packet:
    try:
        packet, _ = mqtt5.read(frame)
    except (ValueError, IndexError) as error:
        raise FrameInvalid(str(error)) from error
    except BaseException as error:
        # Invalid UTF-8 makes the codec panic, which PyO3 raises as a BaseException that cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise FrameInvalid("text that is not UTF-8") from error
    return packet


def _reason_codes(frame: memoryview) -> slice:
    """Return the slice of the reason codes; empty where the packet has none."""
    kind = frame[0] >> 4
    begin = end = len(frame)
    if kind in _BEFORE_CODE:
        begin = body_at(frame) + _BEFORE_CODE[kind]
        end = begin + 1
    elif kind in _CODES_AT_END:
        properties = body_at(frame) + _PACKET_ID
        length, begin = read_variable(frame, properties)
        begin += length
    return slice(min(begin, len(frame)), min(end, len(frame)))


def body_at(frame: memoryview) -> int:
    """Return the offset of the variable header."""
    return read_variable(frame, 1)[1]


def _length(frame: memoryview, position: int) -> int:
    """The length of a string or of binary data (MQTT 5.0 §1.5.4)."""
    return int.from_bytes(frame[position : position + 2], "big")


def read_variable(frame: memoryview, position: int) -> tuple[int, int]:
    """The variable byte integer at `position`, and what is behind it (MQTT 5.0 §1.5.5)."""
    value = shift = 0
    for byte in frame[position : position + 4]:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            break
    return value, position
