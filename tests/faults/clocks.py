"""A clock of the gateway's that a test sets, by libfaketime."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_FILE: Final = "FAKETIME_TIMESTAMP_FILE"

CACHED: Final = 1  # seconds until a program sees that its clock was set


def _library() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def lacks_libfaketime() -> str | None:
    """What is missing for a `FakeClock`."""
    return None if _library() else "libfaketime is not installed"


def is_faked(env: Mapping[str, str]) -> bool:
    """Whether a program with these variables reads a `FakeClock`."""
    return _FILE in env


class FakeClock:
    """Wall time only: the monotonic clock stays true, as it does on a machine whose clock is set."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chapar-clock-")
        self._file = Path(self._folder.name) / "offset"
        self.set(0)

    @property
    def env(self) -> dict[str, str]:
        """The variables of a program that reads this clock."""
        return {
            "LD_PRELOAD": str(_library()),
            _FILE: str(self._file),
            # Without a cache each look at a clock reads the file, and Python looks each time threads take turns.
            "FAKETIME_CACHE_DURATION": str(CACHED),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: int) -> None:
        """Let the clock be `ahead` seconds ahead of ours, in `CACHED` seconds at the latest."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.replace(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
