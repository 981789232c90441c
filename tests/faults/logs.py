"""A log that cannot be written: its reader has gone, or has stopped reading."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


class UnwritableLog:
    """A named pipe for a gateway's log, whose reader goes, comes back and stops reading when told."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chapar-log-")
        self._path = Path(self._folder.name) / "log"
        os.mkfifo(self._path)
        self._reader = self._read()
        self.descriptor = os.open(self._path, os.O_WRONLY)  #: where the gateway writes

    @contextlib.contextmanager
    def reader_gone(self) -> Iterator[None]:
        os.close(self._reader)
        try:
            yield
        finally:
            self._reader = self._read()

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Full within it, and emptied behind it."""
        ours = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while os.write(ours, bytes(4096)):
                pass
        os.close(ours)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._reader, 1 << 16):
                    pass

    def _read(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        os.close(self._reader)
        self._folder.cleanup()
