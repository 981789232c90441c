"""What a broker may say, and how it gets mangled: the input of the session's fuzzer."""

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import mqtt5

_REASON_CODES: Final = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
_LONGEST: Final = 4096  # bytes of a mutated stream
HEAD: Final = 2  # bytes in front of the stream: how many publications wait for answers, and how it is cut

CONNACKS: Final = (
    mqtt5.ConnAckPacket().write(),
    mqtt5.ConnAckPacket(receive_max=2, max_packet_size=64, server_keep_alive=5).write(),
    mqtt5.ConnAckPacket(session_present=True, retain_available=False).write(),
    bytes([0x20, 3, 0, 0x87, 0]),
    bytes([0x20, 2, 0, 1]),  # MQTT 3.1.1
)


def packet(source: random.Random) -> bytes:
    """One packet that a broker may send, about the packet ids that are in use."""
    packet_id = source.randrange(1, 12)
    code = source.choice(_REASON_CODES)
    answers = (
        bytes([0x40, 2, 0, packet_id]),
        bytes([0x40, 3, 0, packet_id, code]),
        bytes([0x50, 3, 0, packet_id, code]),
        bytes([0x70, 3, 0, packet_id, 0]),
        bytes([0x62, 2, 0, packet_id]),
        bytes([0x90, 4, 0xFA, packet_id, 0, code]),
        b"\xd0\x00",
        bytes([0xE0, 1, code]),
        bytes([0xF0, 2, 0x18, 0]),
        source.choice(CONNACKS),
    )
    if source.random() < 0.5:
        return source.choice(answers)
    qos = source.choice([mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE])
    return mqtt5.PublishPacket(
        source.choice(["devices/1/reply", "دستگاه", "a", "x" * 200]),
        source.randbytes(source.choice([0, 1, 130, 300])),
        qos=qos,
        packet_id=packet_id if qos is not mqtt5.QoS.AT_MOST_ONCE else None,
        correlation_data=source.choice([None, b"id", b"\xff" * 100]),
        response_topic=source.choice([None, "r"]),
        user_properties=[("k", "é")] * source.randrange(3),
    ).write()


def conversation(source: random.Random) -> bytes:
    """A broker's side of a session that goes as it should, for some packets at least."""
    packets = b"".join(packet(source) for _ in range(source.randrange(12)))
    return source.randbytes(HEAD) + source.choice(CONNACKS[:3]) + packets


def mutated(data: bytes, source: random.Random) -> bytes:
    """The same with a packet more, fewer, elsewhere, cut or damaged; its head may change too."""
    head = bytearray(data[:HEAD].ljust(HEAD, b"\0"))
    packets = list(_packets(data[HEAD:]))
    for _ in range(source.choice([1, 1, 2, 4])):
        place = source.randrange(len(packets) + 1)
        inside = min(place, len(packets) - 1)
        match source.randrange(8):
            case 0:
                head[source.randrange(HEAD)] = source.randrange(256)
            case 1 | 2:
                packets.insert(place, packet(source))
            case 3 if packets:
                packets.insert(place, packets[inside])
            case 4 if packets:
                del packets[inside]
            case 5 if packets:
                packets[inside] = _damaged(packets[inside], source)
            case 6 if packets:
                packets[inside] = packets[inside][: source.randrange(len(packets[inside]) + 1)]
            case _:
                source.shuffle(packets)
    return bytes(head) + b"".join(packets)[:_LONGEST]


def chunks(stream: bytes, seed: int) -> Iterator[bytes]:
    """The stream as a network may deliver it: whole, byte by byte, or cut anywhere."""
    if seed == 0:
        yield stream
        return
    source = random.Random(seed)
    edges = range(len(stream)) if seed == 1 else source.sample(range(len(stream)), min(seed % 16, len(stream)))
    for start, stop in pairwise(sorted({0, *edges, len(stream)})):
        yield stream[start:stop]


def _packets(stream: bytes) -> Iterator[bytes]:
    """The stream cut where its packets end, as far as it has any."""
    position = 0
    while position < len(stream):
        length = shift = 0
        end = position + 1
        while end < len(stream) and shift < 28:
            length |= (stream[end] & 0x7F) << shift
            shift += 7
            end += 1
            if stream[end - 1] < 0x80:
                break
        yield stream[position : end + length]
        position = end + length


def _damaged(data: bytes, source: random.Random) -> bytes:
    bytes_ = bytearray(data)
    for _ in range(source.choice([1, 1, 3])):
        if bytes_:
            place = source.randrange(len(bytes_))
            bytes_[place] = source.choice([0, 1, 0x7F, 0x80, 0xFF, bytes_[place] ^ 1 << source.randrange(8)])
    return bytes(bytes_)
