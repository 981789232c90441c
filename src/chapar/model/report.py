"""Questions about messages, and their answers: pages and counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from chapar.model.message import Message, Status
from chapar.model.principal import EVERYWHERE, Reach

Bucket = Literal["minute", "hour", "day"]

FAILURES: Final = (Status.REJECTED, Status.EXPIRED, Status.UNCONFIRMED, Status.FAILED, Status.TIMED_OUT)
"""The ends of messages that failed, or of which nobody knows; one that somebody withdrew is none."""


class Format(StrEnum):
    """A form that a report of all messages may have."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    XLSX = "xlsx"

    @property
    def media_type(self) -> str:
        """Return the type and subtype of such a file."""
        return _MEDIA_TYPES[self]


_MEDIA_TYPES: Final[Mapping[Format, str]] = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on messages: those are meant that fit everything that is given."""

    imei: str | None = None
    micro_op: str | None = None
    status: tuple[Status, ...] = ()  #: any of these; empty: all
    since: int | None = None  #: accepted at this time or later, ms since the epoch
    until: int | None = None  #: accepted before this time, ms since the epoch
    sender: str | None = None  #: the principal that sent it
    reach: Reach = EVERYWHERE  #: devices and operations that whoever asks may see


class Position(NamedTuple):
    """A message's place in each order that pages may have. What follows can be read once that message is gone."""

    seq: int  #: in the order of acceptance
    id: str


class Page(NamedTuple):
    """Some of the messages that fit."""

    messages: list[Message]
    next: Position | None  #: behind which the next page begins; None: nothing follows


@dataclass(frozen=True, slots=True)
class Failure:
    """Messages that ended alike, in one of `FAILURES`."""

    status: Status
    reason: str | None  #: None: the status says all
    count: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The largest groups, and how many messages are in none of them."""

    counts: tuple[tuple[str, int], ...]  #: name and messages, largest first
    others: int  #: messages of the groups that are not named


@dataclass(frozen=True, slots=True)
class Timeline:
    """Messages accepted in each bucket of time; a bucket without any is left out."""

    counts: tuple[tuple[int, int], ...]  #: start (ms since the epoch, UTC) and messages, oldest first
    others: int  #: messages before the first bucket


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the messages that fit the filters."""

    total: int
    statuses: Mapping[Status, int]
    devices: Ranking  #: the devices with the most
    operations: Ranking  #: the operations with the most
    times: Timeline  #: the newest buckets
