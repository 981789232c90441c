"""Hold what was promised against what the device heard and what the database says."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from faults.ledger import Entry, Ledger
from faults.listener import Hearing, topic_of
from faults.table import Row

EXPIRY_GRANULARITY: Final = 1.0
"""Seconds that a message may be heard after its expiry: MQTT counts it in whole seconds, and the last is sent as 1."""

CLOCK_STEP: Final = 0.002  # seconds; the gateway writes whole milliseconds down
_NEVER_SENT: Final = {"rejected", "expired", "cancelled"}
ANSWERED: Final = {"acknowledged", "succeeded", "failed"}
AT_BROKER: Final = {"published", "timed_out", *ANSWERED}
"""The statuses of what the broker has acknowledged, or the device."""
_FINAL_WORDS: Final = {"succeeded", "failed"}
_UNFINISHED: Final = {"scheduled", "queued", "publishing"}
_WITHDRAWN: Final = {"superseded", "purged"}


class Broken(StrEnum):
    """The ways to break a promise, as the table of a run names them."""

    LOST = "lost"  #: promised, and neither heard nor truthfully given up
    SENT_AFTER_REFUSAL = "sent after refusal"  #: the caller was told that it was not and will not be sent
    SENT_AGAIN = "sent again after 201"
    UNFLAGGED = "duplicates not flagged"
    OUT_OF_ORDER = "out of order"  #: first deliveries to one device, against the order of acceptance
    EARLY = "early"  #: heard before its time, or expired before it was due
    AFTER_EXPIRY = "after expiry"
    REPLY_LOST = "reply lost"  #: the broker took it, and its message does not say so
    REPLY_DOUBLED = "reply doubled"  #: stored more than once
    REPLY_ASTRAY = "reply on the wrong message"
    SUCCESS_UNSAID = "success shown without a reply"  #: or failure, or receipt
    STALE = "stale command heard"  #: past the time in which its device was known to be there
    SUPERSEDED = "superseded command heard"  #: left after a newer one with its collapse key was accepted
    NO_CONTACT = "sent without contact"  #: it was to wait for its device to speak


@dataclass(slots=True)
class Verdict:
    """What came of one run."""

    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    heard: int = 0  #: messages
    heard_again: int = 0  #: messages heard more than once, each flagged as possible duplicate unless counted as broken
    late_in_transit: int = 0  #: left in time and stalled on the way past their expiry
    broken: dict[Broken, list[str]] = field(default_factory=lambda: defaultdict(list))

    def count(self, what: Broken) -> int:
        return len(self.broken.get(what, ()))

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.broken.values())


def judge(
    ledger: Ledger,
    rows: Sequence[Row],
    hearings: Iterable[Hearing],
    *,
    stalls: Sequence[tuple[float, float]] = (),
    same_clock: bool = True,
    one_gateway: bool = True,
) -> Verdict:
    """`stalls` are the times in which the way to the device was stalled; `same_clock`: the gateway's is ours.

    Of calls that overlap, one gateway accepts one first, and its table says which. Several gateways do not: there,
    only a call that was answered before another began is accepted before it.
    """
    judge_ = _Judge(ledger, rows, hearings, stalls, same_clock=same_clock)
    judge_.rows()
    judge_.entries()
    judge_.order(one_gateway=one_gateway)
    return judge_.verdict


def by_message(hearings: Iterable[Hearing]) -> dict[str, list[Hearing]]:
    """The hearings of each message by its id, in the order of the first ones.

    What the broker itself repeats after the device was away is the same attempt.
    """
    found: dict[str, list[Hearing]] = {}
    for hearing in hearings:
        so_far = found.setdefault(hearing.id, [])
        if not (hearing.redelivered and any(hearing.attempt == each.attempt for each in so_far)):
            so_far.append(hearing)
    return found


def was_held_up(due: float, at: float, stalls: Iterable[tuple[float, float]]) -> bool:
    """Whether what had to arrive by `due` and arrived at `at` may have been on a way that was stalled."""
    return any(since <= due and at <= until + EXPIRY_GRANULARITY for since, until in stalls)


def _may_be_given_up(row: Row) -> bool:
    """Whether an attempt of which nobody knows may be the last: it was the only one, or it was stale behind that."""
    return row.at_most_once or row.condition == "online" or row.reason in _WITHDRAWN


class _Judge:
    def __init__(
        self,
        ledger: Ledger,
        rows: Sequence[Row],
        hearings: Iterable[Hearing],
        stalls: Sequence[tuple[float, float]],
        *,
        same_clock: bool,
    ) -> None:
        self.verdict = Verdict()
        self._ledger = ledger
        self._rows: Mapping[str, Row] = {row.id: row for row in rows}
        self._of_number: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            self._of_number[row.number].append(row)
        self._heard = by_message(hearings)
        self._first = {message_id: place for place, message_id in enumerate(self._heard)}  # among first hearings
        self._stalls = stalls
        self._same_clock = same_clock
        self.verdict.heard = len(self._heard)

    def rows(self) -> None:
        """What the database says, whoever was told what."""
        for row in self._rows.values():
            entry, heard = self._ledger.entries.get(row.number), self._heard.get(row.id, [])
            if entry is None or entry.imei != row.imei:
                raise AssertionError(f"nobody asked for {row}")
            if row.status in _UNFINISHED or row.finished_at is None:
                self._breaks(Broken.LOST, "unfinished", entry, row, heard)
            elif row.status in AT_BROKER and not heard:
                self._breaks(Broken.LOST, f"{row.status} and never heard", entry, row, heard)
            elif row.status == "unconfirmed" and not _may_be_given_up(row):
                self._breaks(Broken.LOST, "given up although it may be repeated", entry, row, heard)
            elif row.status == "expired" and row.finished_at is not None and row.finished_at < (row.expires_at or 0):
                self._breaks(Broken.EARLY, "expired before its time", entry, row, heard)
            if row.status in _NEVER_SENT and heard and not row.possible_duplicate:
                self._breaks(Broken.SENT_AFTER_REFUSAL, f"{row.status}, and heard", entry, row, heard)
        for message_id, heard in self._heard.items():
            self._misheard(self._ledger.entries[heard[0].number], self._rows.get(message_id), heard)

    def entries(self) -> None:
        """What callers were told."""
        for entry in self._ledger.entries.values():
            rows = self._of_number.get(entry.number, [])
            if entry.accepted:
                self.verdict.accepted += 1
                self._accepted(entry, self._rows.get(entry.id or ""))
            elif entry.refused:
                self.verdict.refused += 1
                self._refused(entry, rows)
            else:
                self.verdict.unanswered += 1
            # A repetition may add a message where the first attempt at it was given up unsent.
            sent = [row for row in rows if row.status not in _NEVER_SENT or row.id in self._heard]
            if len(sent) > 1:
                self._breaks(Broken.SENT_AGAIN, f"{len(sent)} messages of one request", entry, sent[0], ())
                self._note(Broken.SENT_AGAIN, sent[1])

    def order(self, *, one_gateway: bool) -> None:
        """First deliveries to each device, against the order in which they were accepted."""
        devices: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows.values():
            # What waits for its device holds nothing up behind it, and what is urgent passes what waits.
            if row.deliver_at is None and row.condition is None and not row.urgent:
                devices[row.imei].append(row)
        for rows in devices.values():
            heard = sorted((row for row in rows if row.id in self._first), key=lambda row: self._first[row.id])
            if one_gateway:
                self._order_of_table(heard)
            else:
                self._order_of_answers(heard)
            entries = [(self._ledger.entries[row.number], row) for row in rows]
            self._order_of_calls([(entry, row) for entry, row in entries if entry.in_turn and entry.id == row.id])

    def _order_of_table(self, heard: Sequence[Row]) -> None:
        latest = heard[0] if heard else None
        for row in heard:
            if latest is not None and row.seq < latest.seq:
                self._overtaken(row, latest)
            else:
                latest = row

    def _order_of_answers(self, heard: Sequence[Row]) -> None:
        first_told: tuple[float, Row] | None = None  # among those heard later than the one looked at
        for row in reversed(heard):
            entry = self._ledger.entries[row.number]
            if first_told is not None and first_told[0] < entry.asked_at:
                self._overtaken(first_told[1], row)
            if entry.accepted and (first_told is None or entry.told_at < first_told[0]):
                first_told = entry.told_at, row

    def _overtaken(self, row: Row, by: Row) -> None:
        """`row` was accepted first and heard second."""
        entry = self._ledger.entries[row.number]
        how = f"heard after {by.micro_op} (seq {by.seq}), accepted before it"
        self._breaks(Broken.OUT_OF_ORDER, how, entry, row, self._heard[row.id])
        self._note(Broken.OUT_OF_ORDER, by)

    def _order_of_calls(self, asked: Sequence[tuple[Entry, Row]]) -> None:
        for (before, _), (entry, row) in itertools.pairwise(asked):
            if entry.number < before.number:
                text = f"accepted after {before.micro_op}, asked for before it"
                self._breaks(Broken.OUT_OF_ORDER, text, entry, row, self._heard.get(row.id, []))

    def _accepted(self, entry: Entry, row: Row | None) -> None:
        heard = () if row is None else self._heard.get(row.id, ())
        if row is None or row.number != entry.number:
            self._breaks(Broken.LOST, f"{entry.status}, and not in the table", entry, row, heard)
        elif entry.status == 201:
            if row.status not in (_FINAL_WORDS if entry.wait == "device" else AT_BROKER):
                self._breaks(Broken.LOST, f"201, and {row.status}", entry, row, heard)
            elif self._same_clock and (row.published_at or 0) / 1000 > entry.told_at + CLOCK_STEP and not entry.reply:
                # A device may answer before the broker does, and then nothing is sent again either.
                self._breaks(Broken.SENT_AGAIN, "published after 201", entry, row, heard)
        elif row.status in {"rejected", "cancelled"} and not entry.may_be_given_up and row.reason not in _WITHDRAWN:
            self._breaks(Broken.LOST, f"202, and {row.status}", entry, row, heard)

    def _refused(self, entry: Entry, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.id in self._heard or row.status in {"unconfirmed", *AT_BROKER}:
                heard = self._heard.get(row.id, ())
                self._breaks(Broken.SENT_AFTER_REFUSAL, f"{entry.status} {entry.code}", entry, row, heard)

    def _misheard(self, entry: Entry, row: Row | None, heard: Sequence[Hearing]) -> None:
        if row is None:
            self._breaks(Broken.LOST, "heard, and not in the table", entry, row, heard)
            return
        if any(hearing.number != row.number or hearing.topic != topic_of(entry.imei) for hearing in heard):
            raise AssertionError(f"heard as another operation or on another topic: {row}, {heard}")
        if len(heard) > 1:
            self.verdict.heard_again += 1
            if not row.possible_duplicate and entry.status == 201:
                self._breaks(Broken.SENT_AGAIN, "heard again", entry, row, heard)
            elif not row.possible_duplicate or row.at_most_once:
                self._breaks(Broken.UNFLAGGED, "heard again", entry, row, heard)
        if max(hearing.attempt for hearing in heard) > row.attempts:
            self._breaks(Broken.UNFLAGGED, "attempts not counted", entry, row, heard)
        if entry.deliver_at is not None and heard[0].at < entry.deliver_at / 1000 - CLOCK_STEP:
            self._breaks(Broken.EARLY, "heard early", entry, row, heard)
        if row.expires_at is not None:
            self._expiry(entry, row, row.expires_at / 1000, heard)

    def _expiry(self, entry: Entry, row: Row, expires_at: float, heard: Sequence[Hearing]) -> None:
        last = max(hearing.at for hearing in heard)
        if last <= expires_at + EXPIRY_GRANULARITY:
            return
        if was_held_up(expires_at, last, self._stalls):
            self.verdict.late_in_transit += 1
        else:
            self._breaks(Broken.AFTER_EXPIRY, f"heard {last - expires_at:.3f} s late", entry, row, heard)

    def _breaks(self, what: Broken, how: str, entry: Entry, row: Row | None, heard: Sequence[Hearing]) -> None:
        self.verdict.broken[what].append(f"{how}\n    {entry}\n    {row}\n    heard {[tuple(h) for h in heard]}")

    def _note(self, what: Broken, row: Row) -> None:
        entry = self._ledger.entries[row.number]
        heard = [tuple(hearing) for hearing in self._heard.get(row.id, [])]
        self.verdict.broken[what][-1] += f"\n    the other: {entry}\n    {row}\n    heard {heard}"
