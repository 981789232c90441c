"""Frames between the gateway and its writer process: four bytes of length, then a pickle.

The two are one program on a private pair of sockets, so a pickle is as trustworthy as the memory it came from.
"""

import pickle

LENGTH = 4  # bytes, big-endian


def pack(frame: object) -> bytes:
    """One frame of plain tuples, lists, strings and numbers as bytes."""
    body = pickle.dumps(frame, protocol=5)
    return len(body).to_bytes(LENGTH, "big") + body


def body_length(header: bytes) -> int:
    """Return how many bytes follow the first `LENGTH` bytes of a frame."""
    return int.from_bytes(header[:LENGTH], "big")


def split(received: bytes) -> tuple[list[bytes], bytes]:
    """The bodies of the frames that have arrived whole, and what has come of the next one."""
    bodies = []
    while len(received) >= (end := LENGTH + body_length(received)):
        bodies.append(received[LENGTH:end])
        received = received[end:]
    return bodies, received


def unpack(body: bytes) -> tuple[object, ...]:
    """Return what `pack` was given, as a tuple."""
    return tuple(pickle.loads(body))  # noqa: S301 - only ever from our own process
