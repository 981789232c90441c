"""Hold what devices said, and when, against what the table shows and what they were sent."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from chapar.runtime.settings import Settings
from faults.fleet import Utterance
from faults.ledger import Ledger
from faults.listener import Hearing
from faults.table import Row, StoredReply
from faults.verdict import (
    ANSWERED,
    AT_BROKER,
    CLOCK_STEP,
    EXPIRY_GRANULARITY,
    Broken,
    Verdict,
    by_message,
    was_held_up,
)

GRACE: Final = 15.0  # seconds until an `offline` is believed
_LAG: Final = 2.0
"""Seconds that a word may take to the gateway, and a command to its device, on a machine that does much else."""

_FINAL_WORDS: Final = {"succeeded", "failed"}


class Contacts(NamedTuple):
    """How the gateway treats what waits for its device."""

    delay: float  #: seconds from a contact to the first send
    window: float  #: seconds from a contact to the last

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Contacts":
        """As a gateway with these variables treats it."""
        delay, window = (Settings.model_fields[name].default for name in ("contact_delay", "contact_window"))
        return cls(float(env.get("CHAPAR_CONTACT_DELAY", delay)), float(env.get("CHAPAR_CONTACT_WINDOW", window)))


def judge_words(
    verdict: Verdict,
    ledger: Ledger,
    rows: Sequence[Row],
    hearings: Iterable[Hearing],
    utterances: Sequence[Utterance],
    replies: Iterable[StoredReply],
    *,
    contacts: Contacts,
    stalls: Sequence[tuple[float, float]] = (),
) -> None:
    """Add to the verdict which promises about devices' words were broken. The clock is that of the gateway."""
    judge = _Judge(verdict, ledger, rows, by_message(hearings), utterances, replies, contacts, stalls)
    judge.replies()
    judge.conditions()
    judge.collapsed()


class _Judge:
    def __init__(
        self,
        verdict: Verdict,
        ledger: Ledger,
        rows: Sequence[Row],
        heard: Mapping[str, Sequence[Hearing]],
        utterances: Sequence[Utterance],
        replies: Iterable[StoredReply],
        contacts: Contacts,
        stalls: Sequence[tuple[float, float]],
    ) -> None:
        self._verdict = verdict
        self._ledger = ledger
        self._rows = rows
        self._heard = heard
        self._contacts = contacts
        self._stalls = stalls
        self._said_of: dict[str, list[Utterance]] = defaultdict(list)  # by message id: the replies of its device
        self._said_by: dict[str, list[Utterance]] = defaultdict(list)  # by device, in order
        for utterance in utterances:
            self._said_by[utterance.imei].append(utterance)
            if utterance.way != "none":
                self._said_of[utterance.message_id].append(utterance)
        self._stored: dict[str, list[StoredReply]] = defaultdict(list)  # by message id
        self._unmatched: set[tuple[str, str]] = set()  # device and bytes
        for reply in replies:
            if reply.message_id is None:
                self._unmatched.add((reply.imei, reply.sha256))
            else:
                self._stored[reply.message_id].append(reply)

    def replies(self) -> None:
        """What each message shows of its device's word."""
        for row in self._rows:
            said = [each for each in self._said_of.get(row.id, ()) if each.imei == row.imei]
            self._stored_once(row, said)
            self._shown(row, said)
            self._answered(row, said)

    def _stored_once(self, row: Row, said: Sequence[Utterance]) -> None:
        stored, told = self._stored.get(row.id, ()), {each.sha256 for each in said}
        for digest, places in Counter(reply.sha256 for reply in stored).items():
            if digest not in told:
                self._breaks(Broken.REPLY_ASTRAY, f"{digest[:8]} is no reply of its device to it", row)
            elif places > 1:
                self._breaks(Broken.REPLY_DOUBLED, f"{digest[:8]} stored {places} times", row)
        times = Counter(each.sha256 for each in said if each.is_delivered)
        for digest, count in times.items():
            found = sum(reply.times for reply in stored if reply.sha256 == digest)
            if not found and not self._is_unmatched(said, digest):
                self._breaks(Broken.REPLY_LOST, f"{digest[:8]} is not stored", row)
            elif 0 < found < count and not self._is_unmatched(said, digest):
                self._breaks(Broken.REPLY_LOST, f"{digest[:8]} counted {found} times of {count}", row)

    def _is_unmatched(self, said: Sequence[Utterance], digest: str) -> bool:
        """Whether a reply that names no message was kept as one of none."""
        return any(
            each.way == "order" and each.sha256 == digest and (each.imei, digest) in self._unmatched for each in said
        )

    def _shown(self, row: Row, said: Sequence[Utterance]) -> None:
        """The status is that of the first final word, and else what was said before it."""
        if row.status in ANSWERED and not said:
            self._breaks(Broken.SUCCESS_UNSAID, f"{row.status}, and its device said nothing", row)
            return
        in_doubt = {each.status for each in said if not each.is_delivered}
        delivered = [each for each in said if each.is_delivered and not self._is_unmatched(said, each.sha256)]
        final = next((each.status for each in delivered if each.status in _FINAL_WORDS), None)
        if final is not None:
            if row.status != final and row.status not in in_doubt:
                self._breaks(Broken.REPLY_LOST, f"{row.status}, and its device said {final} first", row)
        elif delivered and row.status not in {"acknowledged", "timed_out", *in_doubt}:
            self._breaks(Broken.REPLY_LOST, f"{row.status}, and its device had begun", row)
        elif row.status in _FINAL_WORDS and row.status not in {each.status for each in said}:
            self._breaks(Broken.SUCCESS_UNSAID, f"{row.status}, and its device did not say so", row)
        self._not_sent_again(row)

    def _not_sent_again(self, row: Row) -> None:
        if row.status not in _FINAL_WORDS or row.finished_at is None:
            return
        over_at = row.finished_at / 1000
        again = [each for each in self._heard.get(row.id, ()) if each.at > over_at + _LAG and each.attempt > 1]
        if again and not was_held_up(over_at, again[-1].at, self._stalls):
            self._breaks(Broken.SENT_AGAIN, "sent again after its device's final word", row)

    def _answered(self, row: Row, said: Sequence[Utterance]) -> None:
        """What a caller was shown who waited for it."""
        entry = self._ledger.entries[row.number]
        if entry.id != row.id or entry.shown not in _FINAL_WORDS:
            return
        if entry.shown != row.status:
            self._breaks(Broken.SUCCESS_UNSAID, f"answered {entry.shown}, and {row.status}", row)
        elif entry.reply is None or entry.shown not in {each.status for each in said}:
            self._breaks(Broken.SUCCESS_UNSAID, f"answered {entry.shown} with {entry.reply}", row)

    def conditions(self) -> None:
        """What was to leave only where its device was there."""
        for row in self._rows:
            for hearing in self._heard.get(row.id, ()):
                match row.condition:
                    case "contact":
                        self._contact(row, hearing)
                    case "online":
                        self._online(row, hearing)

    def _contact(self, row: Row, hearing: Hearing) -> None:
        """A contact came before it, by the delay at least and by the window at most."""
        said = [each for each in self._said_by.get(row.imei, ()) if _is_sign_of_life(each)]
        begun = bisect.bisect_right(said, hearing.at - self._contacts.delay + CLOCK_STEP, key=lambda each: each.at)
        if not begun:
            self._breaks(Broken.NO_CONTACT, "its device had not spoken, or only just", row)
            return
        latest = said[begun - 1]
        if hearing.attempt == row.attempts and row.contact_until is not None:
            self._is_contact(row, said, row.contact_until / 1000 - self._contacts.window)
        ends = max(latest.at, latest.answered_at) + _LAG + self._contacts.window
        if hearing.attempt == row.attempts and row.contact_until is not None:
            ends = min(ends, row.contact_until / 1000)
        if self._is_late(hearing.at, ends):
            self._breaks(Broken.STALE, f"heard {hearing.at - ends:.3f} s behind the window of a contact", row)

    def _is_contact(self, row: Row, said: Sequence[Utterance], at: float) -> None:
        """What the gateway took for a contact is one: what is retained is none, however often it comes."""
        before = bisect.bisect_right(said, at + CLOCK_STEP, key=lambda each: each.at)
        latest = said[before - 1] if before else None
        if latest is None or (latest.is_delivered and self._is_late(at, latest.answered_at)):
            self._breaks(Broken.NO_CONTACT, f"its device did not speak at {at:.3f}", row)

    def _online(self, row: Row, hearing: Hearing) -> None:
        """Its device had said that it is there, and it arrived while that was true."""
        accepted_at = row.created_at / 1000
        ends = accepted_at + self._contacts.window
        if row.expires_at is None or row.expires_at / 1000 > ends + CLOCK_STEP:
            self._breaks(Broken.STALE, "may leave later than its device is known to be there", row)
        if self._is_late(hearing.at, ends):
            self._breaks(Broken.STALE, f"heard {hearing.at - ends:.3f} s behind its window", row)
        said = [each for each in self._said_by.get(row.imei, ()) if each.at <= hearing.at]
        if not any(each.topic == "presence" and each.status == "online" for each in said):
            self._breaks(Broken.STALE, "its device never said that it was there", row)
            return
        latest = said[-1]
        gone_at = latest.answered_at + GRACE + _LAG
        if latest.status == "offline" and latest.is_delivered and gone_at < accepted_at:
            self._breaks(Broken.STALE, f"its device had been away for {accepted_at - latest.at:.3f} s", row)

    def collapsed(self) -> None:
        """What a newer message with its collapse key had withdrawn."""
        series: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self._rows:
            if row.collapse_key is not None:
                series[row.imei, row.collapse_key].append(row)
        for rows in series.values():
            told_at: float | None = None  # the first answer that accepted a newer one
            for row in reversed(rows):
                if told_at is not None:
                    self._superseded(row, told_at)
                entry = self._ledger.entries[row.number]
                if entry.accepted and entry.id == row.id:
                    told_at = entry.told_at if told_at is None else min(told_at, entry.told_at)

    def _superseded(self, row: Row, told_at: float) -> None:
        """A newer one was accepted by `told_at`: what had not left by then does not leave any more."""
        heard = self._heard.get(row.id, ())
        if row.reason == "superseded" and row.status == "cancelled" and not row.attempts and heard:
            self._breaks(Broken.SUPERSEDED, "withdrawn before it left, and heard", row)
        elif row.superseded_by is None and row.status in AT_BROKER and self._known_to_have_left_at(row) > told_at:
            self._breaks(Broken.SUPERSEDED, "published after a newer one was accepted, which did not withdraw it", row)
        elif heard and self._is_late(heard[-1].at, told_at):
            # What was on its way at that moment was heard close to it.
            self._breaks(Broken.SUPERSEDED, f"heard {heard[-1].at - told_at:.3f} s after a newer one", row)

    def _known_to_have_left_at(self, row: Row) -> float:
        """The earliest moment at which the gateway may have known it: a device may answer before the broker does."""
        said = [each.at for each in self._said_of.get(row.id, ()) if each.imei == row.imei]
        return min([(row.published_at or 0) / 1000, *said])

    def _is_late(self, at: float, due: float) -> bool:
        return at > due + EXPIRY_GRANULARITY and not was_held_up(due, at, self._stalls)

    def _breaks(self, what: Broken, how: str, row: Row) -> None:
        said = "".join(f"\n    said {each}" for each in self._said_of.get(row.id, ()))
        if row.condition is not None:
            said += "".join(f"\n    said {each}" for each in self._said_by.get(row.imei, ())[-20:])
        stored = "".join(f"\n    stored {each}" for each in self._stored.get(row.id, ()))
        heard = [tuple(hearing) for hearing in self._heard.get(row.id, ())]
        entry = self._ledger.entries[row.number]
        self._verdict.broken[what].append(f"{how}\n    {entry}\n    {row}\n    heard {heard}{said}{stored}")


def _is_sign_of_life(utterance: Utterance) -> bool:
    """Whether the device itself spoke: of its will, and of what is empty, nobody knows."""
    return utterance.topic != "presence" or utterance.status not in {"offline", ""}
