"""Standard output and error that end nothing: what cannot be written is lost, and whoever wants to know can ask."""

import atexit
import errno
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_WAITING: Final = 1 << 20  # bytes of lines for a reader that does not read; hundreds of events with tracebacks
_LAST_PATIENCE: Final = 1.0  # seconds in which the last lines are still written when the process ends


class Output(io.FileIO):
    """A descriptor to which no write fails: `problem` says what became of the last one."""

    problem: OSError | None = None  #: why what was written is lost
    _in_doubt = b""  # what was being written when an interrupt came

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of `data`, or lose it.

        An interrupt (Ctrl-C) may come when the system has taken the data already. The buffer in front of this
        offers it again then, and it is not written twice.
        """
        whole = memoryview(data)
        in_doubt, self._in_doubt = self._in_doubt, bytes(whole)
        offered_again = whole[: len(in_doubt)] == in_doubt
        _, problem = _write(self.fileno(), whole[len(in_doubt) :] if offered_again else whole)
        self.problem = problem or self.problem
        self._in_doubt = b""
        return whole.nbytes


def protect() -> None:
    """Open the descriptors 0 to 2 where they are closed, and let no write to standard output or error fail.

    To be called before anything else is opened: a socket that gets the number of a closed one would be taken for it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - the lowest free number is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout, sys.stderr = _forgiving(1, sys.stdout), _forgiving(2, sys.stderr)


def output_problem() -> OSError | None:
    """Return why something written to standard output is lost; None where nothing is."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.problem if isinstance(raw, Output) else None


def reader_is_gone(problem: OSError) -> bool:
    """Return whether the other end of a pipe was closed, as `head` does once it has enough."""
    return problem.errno == errno.EPIPE


def drain() -> None:
    """Wait until every line is written that a `LineWriter` has taken, at most a second for each of them."""
    for writer in _started:
        writer.drain()


class LineWriter:
    """Lines for a descriptor, written in the background: `write()` never waits and never fails.

    A reader that does not read is waited for until `MOST_WAITING` bytes wait; further lines are lost. When lines can
    be written again, `on_recovery` is called with the number of those that were lost since the last one.
    """

    def __init__(self, descriptor: int, on_recovery: Callable[[int], None] = lambda _: None) -> None:
        self.lost = 0  #: lines, in all
        self._descriptor = descriptor
        self._on_recovery = on_recovery
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes of them, and of the one being written
        self._changed = threading.Condition()  # reentrant: a line may come from a destructor, anywhere
        self._is_started = False

    def write(self, text: str) -> None:
        """Take a line, or several."""
        data = f"{text}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._size + len(data) > MOST_WAITING:
                self.lost += 1
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="lines", daemon=True).start()
                _started.append(self)

    def drain(self) -> None:
        """Wait until everything is written, at most a second."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, _LAST_PATIENCE)

    def _run(self) -> None:
        reported, torn = 0, False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            rest, problem = _write(self._descriptor, memoryview(b"\n" + data if torn else data))
            torn = problem is not None and (torn or len(rest) < len(data))
            with self._changed:
                self._size -= len(data)
                self.lost += problem is not None
                self._changed.notify_all()
            if problem is None and self.lost > reported:
                lost, reported = self.lost - reported, self.lost
                self._on_recovery(lost)


_started: Final[list[LineWriter]] = []
atexit.register(drain)


def _forgiving(descriptor: int, stream: TextIO | None) -> io.TextIOWrapper:
    """A text stream like `stream` to which no write fails."""
    return io.TextIOWrapper(
        io.BufferedWriter(Output(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",  # a character that the terminal does not know is no reason to fail either
        line_buffering=descriptor == 2 or os.isatty(descriptor),  # noqa: PLR2004 - standard error
    )


def _write(descriptor: int, data: memoryview) -> tuple[memoryview, OSError | None]:
    """Write all of it, however little is taken at a time, also where somebody made the descriptor non-blocking.

    Gives what could not be written, and why.
    """
    while data:
        try:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                select.select([], [descriptor], [])
        except OSError as error:
            return data, error
    return data, None
