"""The ledger: what each message was asked to do, and what its caller was told."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    *("broker", "none", "bulk", "once", "brief", "later", "keyed", "crowd", "cut"),
    *("device", "reply", "order", "contact", "online", "collapse", "urgent"),
]
"""How a message was asked for.

`broker` and `crowd` wait for the broker, the crowd on one device; `none` and `bulk` do not wait; `once` goes at most
once; `brief` expires soon; `later` is due soon; `keyed` is repeated under its key until it is answered; for `cut` the
caller hangs up behind the request. `device` waits for the device's word; `reply` and `order` expect it and do not wait,
and devices of the second name no message in it; `contact` leaves when the device speaks; `online` only where the device
is there; `collapse` withdraws what waits with its key; `urgent` leaves first.
"""


_INTERNAL = 500
_UNKNOWN = 503  # the database did not say

Wait = Literal["broker", "none", "device"]


@dataclass(slots=True)
class Entry:
    """One message. The operation that the device is told is its number, so it is known wherever it turns up."""

    number: int
    imei: str
    kind: Kind
    in_turn: bool  #: whether its device has one caller only, who asks for one thing after the other
    asked_at: float  #: time.time()
    wait: Wait = "broker"
    at_most_once: bool = False
    expires_in: float | None = None  #: seconds
    collapse_key: str | None = None
    deliver_at: int | None = None  #: ms since the epoch
    may_be_given_up: bool = False  #: whether a fault is made for this very message, or its device may be away
    told_at: float = 0.0  #: time.time()
    status: int | None = None  #: None: no answer came
    code: str | None = None
    id: str | None = None
    shown: str | None = None  #: its status, as the answer shows it
    reply: dict[str, Any] | None = None  #: likewise

    @property
    def micro_op(self) -> str:
        return f"n-{self.number}"

    @property
    def accepted(self) -> bool:
        return self.status in {201, 202}

    @property
    def refused(self) -> bool:
        """Whether the caller was told that nothing was sent. A 503 says that nobody knows."""
        return self.status not in {None, _UNKNOWN} and not self.accepted


def number_of(micro_op: str) -> int:
    """The number of the message with this operation."""
    return int(micro_op.removeprefix("n-"))


@dataclass(slots=True)
class Ledger:
    """Everything that was asked in one run; on each device the numbers only grow."""

    entries: dict[int, Entry] = field(default_factory=dict)
    answered: int = 0  #: messages with an answer, for progress
    accepted: int = 0
    faults: list[str] = field(default_factory=list)  #: answers that no gateway should give
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(self, imei: str, kind: Kind, asked_at: float, *, in_turn: bool = True) -> Entry:
        """A new entry, not yet answered."""
        entry = Entry(next(self._numbers), imei, kind, in_turn, asked_at)
        self.entries[entry.number] = entry
        return entry

    def tell(self, entry: Entry, told_at: float, status: int, body: dict[str, Any]) -> None:
        """The answer to it came; one that says that the gateway itself failed promises nothing, and is a fault."""
        if status == _INTERNAL:
            self.faults.append(f"500 {body.get('code')}: {entry}")
            return
        entry.told_at, entry.status, entry.id, entry.code = told_at, status, body.get("id"), body.get("code")
        entry.shown, entry.reply = body.get("status"), body.get("reply")
        self.answered += 1
        self.accepted += entry.accepted
