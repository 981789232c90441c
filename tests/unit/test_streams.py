"""What cannot be written is lost and counted, and nothing waits or fails because of it."""

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from chapar.runtime.streams import MOST_WAITING, LineWriter, Output
from support.site import until


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self._open.remove(descriptor)

    def fill(self) -> int:
        os.set_blocking(self.writer, False)
        size = 0
        try:
            while True:
                size += os.write(self.writer, bytes(1 << 16))
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return size

    def read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            read += os.read(self.reader, size - len(read))
        return read

    def read_until(self, end: bytes) -> bytes:
        read = b""
        while not read.endswith(end):
            read += os.read(self.reader, 1 << 16)
        return read

    def end(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.end()


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    for number in range(100):
        writer.write(f"{number} برو \ud800")
    read = pipe.read_until(b"99 \xd8\xa8\xd8\xb1\xd9\x88 \\ud800\n")
    assert read.decode() == "".join(f"{number} برو \\ud800\n" for number in range(100))
    assert writer.lost == 0


def test_a_reader_that_is_gone_costs_the_line_only(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    pipe.close(pipe.reader)
    for _ in range(3):
        writer.write("nobody reads this")
    until(lambda: writer.lost == 3)


@pytest.mark.parametrize("place", ["/dev/full", "closed"])
def test_a_disk_without_room_or_a_closed_descriptor_costs_the_line_only(place: str) -> None:
    descriptor = os.open("/dev/full" if place == "/dev/full" else os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor)
    if place == "closed":
        os.close(descriptor)
    writer.write("no room")
    until(lambda: writer.lost == 1)
    if place == "/dev/full":
        os.close(descriptor)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_does_not_read_holds_nobody_up(pipe: Pipe, *, blocking: bool) -> None:
    recovered: list[int] = []
    writer = LineWriter(pipe.writer, recovered.append)
    in_pipe = pipe.fill()
    os.set_blocking(pipe.writer, blocking)
    line = "x" * 1023
    for _ in range(MOST_WAITING // 1024 + 5):
        writer.write(line)
    assert writer.lost == 5
    pipe.read(in_pipe)
    assert pipe.read(MOST_WAITING) == f"{line}\n".encode() * (MOST_WAITING // 1024)
    writer.write("again")
    assert pipe.read_until(b"again\n") == b"again\n"
    assert recovered == [5]


def test_a_line_that_was_torn_does_not_spoil_the_next_one(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write, torn = os.write, threading.Event()

    def failing(descriptor: int, data: memoryview) -> int:
        if torn.is_set():
            return write(descriptor, data)
        if len(data) > 3:
            return write(descriptor, data[: len(data) - 3])
        torn.set()
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "write", failing)
    writer = LineWriter(pipe.writer)
    writer.write("torn line")
    writer.write("whole line")
    assert pipe.read_until(b"whole line\n") == b"torn li\nwhole line\n"
    assert writer.lost == 1


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_closed_standard_descriptors_are_taken_before_anything_else_gets_their_numbers(descriptor: int) -> None:
    code = f"""
import os, socket
os.close({descriptor})
from chapar.runtime import streams
streams.protect()
opened = socket.socket()
assert opened.fileno() > 2, opened
print("out", end="")
assert os.path.samestat(os.fstat({descriptor}), os.stat(os.devnull))
assert os.get_inheritable({descriptor})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if descriptor == 1 else "out")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_standard_stream_that_cannot_be_written_fails_neither_now_nor_at_the_end(stream: str) -> None:
    code = f"""
import sys
from chapar.runtime import streams
streams.protect()
for _ in range(3):
    print("x" * 100_000, file=sys.{stream})
    sys.{stream}.flush()
print("left in the buffer", file=sys.{stream}, end="")
assert (streams.output_problem() is not None) == ("{stream}" == "stdout")
"""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        other = "stderr" if stream == "stdout" else "stdout"
        done = subprocess.run(
            [sys.executable, "-c", code], **{stream: full, other: subprocess.PIPE}, timeout=60, check=False
        )
    assert (done.returncode, getattr(done, other)) == (0, b"")


def test_a_character_that_the_terminal_does_not_know_is_written_out() -> None:
    code = "from chapar.runtime import streams; streams.protect(); print('برو \\ud800')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == rb"\u0628\u0631\u0648 \ud800" + b"\n"


@pytest.mark.parametrize("size", [10, 100_000])
def test_what_was_being_written_when_an_interrupt_came_is_not_written_twice(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    line = "x" * size + "\n"
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data)
        raise KeyboardInterrupt

    with io.TextIOWrapper(io.BufferedWriter(Output(pipe.writer, "w", closefd=False))) as stream:
        reading = threading.Thread(target=lambda: read.append(pipe.read_until(b"end\n")))
        read: list[bytes] = []
        reading.start()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                print(line, end="", file=stream, flush=True)
        print("end", file=stream, flush=True)
    reading.join()
    assert read == [line.encode() + b"end\n"]
