"""What a send cannot do without, each alone: one fsync, and one PUBLISH with its PUBACK."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

_PAGE = bytes(4096)
_CONNECT = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03dot"  # MQTT 3.1.1 §3.1
_CONNACK_LENGTH = 4
_PUBLISH = b"\x32\x24\x00\x17devices/861234567890123\x00\x01push_down"  # QoS 1, packet id 1 (§3.3)
_PUBACK_LENGTH = 4


@dataclass(frozen=True)
class Floor:
    """What one send waits for at least, besides HTTP."""

    fsync: float  #: ms, median
    puback: float  #: ms, median

    @classmethod
    def measure(cls, folder: Path, broker_port: int) -> Self:
        """Now, within some tenths of a second; `folder` lies on the disk that the databases are on."""
        return cls(_fsync(folder), _puback(broker_port))


def _fsync(folder: Path, times: int = 300) -> float:
    """Median milliseconds of appending a page to a file and waiting until the disk has it, as a commit does."""
    file = folder / "fsync"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:

        def append() -> None:
            os.write(descriptor, _PAGE)
            os.fdatasync(descriptor)

        return _median(append, times)
    finally:
        os.close(descriptor)
        file.unlink()


def _puback(port: int, times: int = 2000) -> float:
    """Median milliseconds between a PUBLISH and its PUBACK, one after the other."""
    with socket.create_connection(("127.0.0.1", port)) as broker:
        broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        broker.sendall(_CONNECT)
        broker.recv(_CONNACK_LENGTH, socket.MSG_WAITALL)

        def publish() -> None:
            broker.sendall(_PUBLISH)
            broker.recv(_PUBACK_LENGTH, socket.MSG_WAITALL)

        return _median(publish, times)


def _median(step: Callable[[], None], times: int) -> float:
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        step()
        took.append(time.perf_counter() - begun)
    return median(took) * 1000
