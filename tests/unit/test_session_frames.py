from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.link.frames import FrameInvalid, Frames

LIMIT = 1024 * 1024


def frame(body: bytes) -> bytes:
    """A packet of some type with this body."""
    length, size = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        size.append(digit | (0x80 if length else 0))
        if not length:
            return b"\x30" + bytes(size) + body


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(
    bodies=st.lists(st.binary(max_size=300) | st.integers(0, 40_000).map(bytes), max_size=8),
    places=st.lists(st.integers(min_value=0)),
)
def test_packets_are_the_same_wherever_the_stream_is_cut(bodies: list[bytes], places: list[int]) -> None:
    packets = [frame(body) for body in bodies]
    frames = Frames(LIMIT)
    found = [bytes(packet) for piece in cut(b"".join(packets), places) for packet in frames.feed(piece)]
    assert found == packets


def test_one_byte_at_a_time() -> None:
    packets = [frame(b""), frame(b"a" * 127), frame(b"b" * 128), frame(b"c" * 16_384)]
    frames = Frames(LIMIT)
    stream = b"".join(packets)
    found = [bytes(packet) for place in range(len(stream)) for packet in frames.feed(stream[place : place + 1])]
    assert found == packets


def test_a_packet_that_announces_too_much_is_refused_by_its_header_alone() -> None:
    with pytest.raises(FrameInvalid, match="a packet of 2097157 bytes"):
        list(Frames(LIMIT).feed(b"\x30\x80\x80\x80\x01"))


def test_the_longest_packet_that_we_announced_is_taken() -> None:
    packet = frame(bytes(LIMIT - 4))
    assert [len(found) for found in Frames(LIMIT).feed(packet)] == [LIMIT]


def test_a_length_of_more_than_four_bytes_is_malformed() -> None:
    with pytest.raises(FrameInvalid, match="more than four bytes"):
        list(Frames(LIMIT).feed(b"\x30\xff\xff\xff\xff\x01"))


def test_good_packets_before_a_bad_one_are_out_first() -> None:
    packets = Frames(LIMIT).feed(frame(b"good") + b"\x30\xff\xff\xff\xff\x01")
    assert bytes(next(packets)) == frame(b"good")
    with pytest.raises(FrameInvalid):
        next(packets)
