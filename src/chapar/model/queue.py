"""The queue's values: what a process takes from it, the lease under which it does, and what waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from chapar.model.change import Change
from chapar.model.message import Message, Status


class Lease(NamedTuple):
    """The right of a process to what it has taken, for a while."""

    process: str  #: token
    name: str  #: of the process, for people
    seconds: float  #: how long the lease is from now on
    alone: bool  #: no other process can be alive: this one holds the database's lock


class Taken(NamedTuple):
    """Work that a process found in the queue."""

    messages: list[Message]  #: now PUBLISHING, in the order of acceptance
    next_at: int | None  #: when something becomes due or expires next, ms since the epoch
    others: Sequence[Change] = ()  #: what has become due, has expired, or was superseded by something newer
    paused: Sequence[str] = ()  #: devices whose queue is paused and of which this process has something on its way


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts of the unfinished messages of all devices."""

    depths: Mapping[Status, int]  #: messages, by status
    oldest: Message | None  #: the one that was accepted first
    held: int = 0  #: those among them that wait until their owner releases them
    paused: int = 0  #: devices whose queue is paused


class Unsent(StrEnum):
    """Fate of the messages that a restored backup has unsent."""

    KEEP = "keep"  #: They are sent as they are.
    HOLD = "hold"  #: They wait for `chapar queue release` or `chapar queue cancel`.
    CANCEL = "cancel"  #: They are cancelled.
