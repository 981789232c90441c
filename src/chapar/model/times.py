"""Points in time: which ones are taken, and how they are written (RFC 3339)."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from chapar.errors import Phrase

LATEST: Final = 253_402_300_799_999  # ms since the epoch: the end of 9999, which no clock and no database goes beyond

_UNITS: Final = {"days": 86_400, "hours": 3600, "minutes": 60}  # seconds
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER_CALENDARS: Final = range(1300, 1600)  # years


class TimeInvalid(ValueError):
    """A time that is not taken. The rule that it breaks reads on from the name of its field."""

    def __init__(self, rule: Phrase) -> None:
        super().__init__(str(rule))
        self.rule = rule


def check_time(time: datetime) -> None:
    """Raise TimeInvalid for a time outside 1970 to 9999 UTC, and name the calendar where its year looks like another's.

    A time without an offset is checked for its year only.
    """
    if time.year in _OTHER_CALENDARS:
        raise TimeInvalid(Phrase("rule.other_calendar", year=time.year))
    if time.tzinfo is not None and not 0 <= _milliseconds(time) <= LATEST:
        raise TimeInvalid(Phrase("rule.time_range"))


def milliseconds(time: datetime | None) -> int | None:
    """A time with an offset as ms since the epoch."""
    return None if time is None else _milliseconds(time)


def datetime_of(milliseconds: int) -> datetime:
    """The time, in UTC; the nearest one that is taken for one that is not."""
    return _EPOCH + timedelta(milliseconds=_taken(milliseconds))


@lru_cache(maxsize=4096)  # of what is written under load, many share a millisecond
def rfc3339(milliseconds: int | None) -> str | None:
    """`2026-11-24T06:30:00.004Z`: UTC with milliseconds. A time out of range is shown as the nearest one within it."""
    if milliseconds is None:
        return None
    if not 0 <= milliseconds <= LATEST:
        milliseconds = _taken(milliseconds)
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_up_to_seconds(seconds)}.{rest:03}Z"


def span(seconds: float) -> Phrase:
    """Word a length of time, in the largest unit of which it is a whole number."""
    unit, length = next((each for each in _UNITS.items() if seconds % each[1] == 0), ("seconds", 1))
    return Phrase(f"span.{unit}", count=seconds / length)


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _taken(milliseconds: int) -> int:
    return min(max(milliseconds, 0), LATEST)


@lru_cache(maxsize=4096)
def _up_to_seconds(seconds: int) -> str:
    """Neighbours in a report share most of their times; writing all of them anew was two thirds of what a row costs."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
