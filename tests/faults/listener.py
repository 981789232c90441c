"""The device: a process of its own that subscribes to everything and writes down what it hears, and when.

`python -m faults.listener <port> <file>`
"""

import os
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Final, NamedTuple, Self
from uuid import UUID

from faults.ledger import number_of
from support.devices import Device, Heard

_RECORD: Final = struct.Struct("<qdHBI16s")
_PROBE: Final = "devices/probe"


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


def _record(heard: Heard) -> bytes:
    now = time.time()
    if heard.topic == _PROBE:
        return _RECORD.pack(-int(heard.payload), now, 0, 0, 0, bytes(16))
    properties = dict(heard.user_properties)
    return _RECORD.pack(
        number_of(heard.payload.decode()),
        now,
        int(properties.get("attempt", 1)),
        heard.dup,
        zlib.crc32(heard.topic.encode()),
        UUID(properties["message-id"]).bytes,
    )


def main() -> None:
    """Listen until killed."""
    file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    device = Device(int(sys.argv[1]), "fleet", topics=["devices/#"], mqtt5=True, persistent=True)

    def write(heard: Heard) -> None:
        os.write(file, _record(heard))
        device.heard.clear()  # it is in the file

    device.on_heard = write
    device.start()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
