"""The judge of what devices said: each kind of broken promise is noticed, and nothing else is."""

import dataclasses
from typing import Any

import pytest

from faults.fleet import Utterance
from faults.listener import Hearing
from faults.table import StoredReply
from faults.test_verdict import NOW, Case
from faults.verdict import Broken, Verdict
from faults.words import GRACE, Contacts, judge_words

CONTACTS = Contacts(delay=0.2, window=2.0)


class Spoken(Case):
    """One message that is answered at once: its device says `ok`, which is stored and shown."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.but(status="succeeded", finished_at=_ms(NOW + 0.6), reply_within=1500)
        self.said: list[Utterance] = []
        self.stored: list[StoredReply] = []
        self.says("succeeded").stores("succeeded")

    def says(self, status: str, at: float = NOW + 0.6, **fields: Any) -> "Spoken":
        row, place = self.row, len(self.said)
        reply = Utterance(
            place, at, row.imei, "reply", row.id, row.number, "correlation", status, f"{row.number} {status}", 0, at
        )
        self.said.append(dataclasses.replace(reply, **fields))
        return self

    def stores(self, status: str, times: int = 1) -> "Spoken":
        self.stored.append(StoredReply(self.row.imei, self.row.id, status, f"{self.row.number} {status}", times))
        return self

    def announces(self, word: str, at: float) -> "Spoken":
        """The device has said only this, and waits for nothing."""
        presence = Utterance(0, at, self.row.imei, "presence", "", 0, "none", word, word, 0, at)
        self.said, self.stored = [*(each for each in self.said if each.topic == "presence"), presence], []
        self.but(status="published", reply_within=None)
        return self

    def is_silent(self) -> "Spoken":
        self.said, self.stored = [], []
        return self


def _ms(at: float) -> int:
    return round(at * 1000)


def broken(*cases: Spoken, stalls: tuple[tuple[float, float], ...] = ()) -> set[Broken]:
    verdict = Verdict()
    rows = sorted(case.row for case in cases)
    heard: list[Hearing] = [hearing for case in cases for hearing in case.heard]
    said = [each for case in cases for each in case.said]
    stored = [each for case in cases for each in case.stored]
    judge_words(verdict, cases[0].ledger, rows, heard, said, stored, contacts=CONTACTS, stalls=stalls)
    return {what for what, offenders in verdict.broken.items() if offenders}


def test_what_was_said_and_is_shown_breaks_nothing() -> None:
    assert broken(Spoken()) == set()
    assert broken(Spoken().is_silent().but(status="timed_out")) == set()


@pytest.mark.parametrize("status", ["published", "acknowledged", "timed_out", "failed", "unconfirmed"])
def test_a_final_word_that_is_not_shown_is_lost(status: str) -> None:
    assert broken(Spoken().but(status=status)) == {Broken.REPLY_LOST}


def test_a_word_that_is_not_stored_is_lost() -> None:
    case = Spoken().says("failed", NOW + 0.7)
    assert broken(case) == {Broken.REPLY_LOST}
    assert broken(case.stores("failed")) == set()


def test_the_first_final_word_stands() -> None:
    case = Spoken().is_silent().says("failed").says("succeeded").stores("failed").stores("succeeded")
    assert broken(case) == {Broken.REPLY_LOST}
    assert broken(case.but(status="failed")) == set()


def test_progress_that_is_not_shown_is_lost() -> None:
    case = Spoken().is_silent().says("acknowledged").stores("acknowledged").but(status="published")
    assert broken(case) == {Broken.REPLY_LOST}
    assert broken(case.but(status="timed_out")) == set()
    assert broken(case.but(status="acknowledged")) == set()
    assert broken(case.but(status="succeeded")) == {Broken.REPLY_LOST}


def test_what_the_broker_did_not_take_may_be_missing() -> None:
    case = Spoken().is_silent().says("succeeded", code=None).but(status="timed_out")
    assert broken(case) == set()
    assert broken(case.stores("succeeded").but(status="succeeded")) == set()


def test_a_reply_that_names_no_message_may_be_one_of_none() -> None:
    case = Spoken().is_silent().says("succeeded", way="order").but(status="timed_out")
    assert broken(case) == {Broken.REPLY_LOST}
    case.stored = [StoredReply(case.row.imei, None, None, f"{case.row.number} succeeded", 1, "order_off")]
    assert broken(case) == set()


def test_the_same_reply_is_one_with_a_count() -> None:
    case = Spoken().says("succeeded", NOW + 0.7)
    assert broken(case) == {Broken.REPLY_LOST}
    case.stored.clear()
    assert broken(case.stores("succeeded", times=2)) == set()
    assert broken(case.stores("succeeded")) == {Broken.REPLY_DOUBLED}


def test_a_reply_on_the_wrong_message() -> None:
    case, other = Spoken(), Spoken().is_silent().but(status="timed_out")
    other.ledger, other.entry = case.ledger, case.ledger.open("1", "broker", NOW)
    other.row = other.row._replace(seq=2, id="other", micro_op=other.entry.micro_op)
    other.heard = []
    other.stored = [case.stored[0]._replace(message_id="other")]
    assert broken(case, other) == {Broken.REPLY_ASTRAY}


@pytest.mark.parametrize("imei", ["1", "2"])
def test_nobody_may_speak_for_another_device(imei: str) -> None:
    case = Spoken().is_silent().says("succeeded", imei=imei).stores("succeeded")
    assert broken(case) == (set() if imei == "1" else {Broken.REPLY_ASTRAY, Broken.SUCCESS_UNSAID})


@pytest.mark.parametrize("status", ["acknowledged", "succeeded", "failed"])
def test_shown_and_never_said(status: str) -> None:
    assert broken(Spoken().is_silent().but(status=status)) == {Broken.SUCCESS_UNSAID}


def test_answered_otherwise_than_it_is_shown() -> None:
    case = Spoken()
    case.entry.shown, case.entry.reply = "succeeded", {"status": "succeeded"}
    assert broken(case) == set()
    case.entry.shown = "failed"
    assert broken(case) == {Broken.SUCCESS_UNSAID}
    case.entry.shown, case.entry.reply = "succeeded", None
    assert broken(case) == {Broken.SUCCESS_UNSAID}


def test_sent_again_after_the_final_word() -> None:
    case = Spoken().but(attempts=2, possible_duplicate=True)
    assert broken(case.hears(case.hearing(), case.hearing(NOW + 1, attempt=2))) == set()
    assert broken(case.hears(case.hearing(), case.hearing(NOW + 9, attempt=2))) == {Broken.SENT_AGAIN}


def contacted(at: float, word: str = "hello") -> Spoken:
    """A message that left at NOW + 0.5, whose device spoke at `at`."""
    return Spoken().announces(word, at).but(condition="contact", contact_until=_ms(at + CONTACTS.window))


def test_sent_behind_a_contact() -> None:
    assert broken(contacted(NOW + 0.3)) == set()
    assert broken(contacted(NOW - 1)) == set()


def test_sent_without_a_contact() -> None:
    assert broken(contacted(NOW).is_silent()) == {Broken.NO_CONTACT}
    assert broken(contacted(NOW, "offline")) == {Broken.NO_CONTACT}


def test_sent_before_the_device_listens() -> None:
    assert broken(contacted(NOW + 0.4)) == {Broken.NO_CONTACT}


def test_what_is_retained_is_no_contact() -> None:
    assert broken(contacted(NOW - 100, "online").but(contact_until=_ms(NOW + 2))) == {Broken.NO_CONTACT, Broken.STALE}


def test_heard_behind_the_window_of_its_contact() -> None:
    case = contacted(NOW + 0.3)
    assert broken(case.hears(case.hearing(NOW + 3.2))) == set()
    assert broken(case.hears(case.hearing(NOW + 3.4))) == {Broken.STALE}
    assert broken(case, stalls=((NOW + 1, NOW + 4),)) == set()
    # A window of which the row says nothing any more.
    assert broken(case.but(contact_until=None).hears(case.hearing(NOW + 5))) == set()
    assert broken(case.hears(case.hearing(NOW + 6))) == {Broken.STALE}


def online(*words: tuple[str, float]) -> Spoken:
    case = Spoken().is_silent()
    for word, at in words:
        case.announces(word, at)
    return case.but(condition="online", expires_at=_ms(NOW + CONTACTS.window), status="published", reply_within=None)


def test_sent_where_the_device_is_there() -> None:
    assert broken(online(("online", NOW - 100))) == set()
    assert broken(online(("online", NOW - 100), ("offline", NOW - 1))) == set()
    assert broken(online(("online", NOW - 100), ("offline", NOW - 60), ("hello", NOW - 50))) == set()


def test_sent_where_the_device_is_away() -> None:
    assert broken(online()) == {Broken.STALE}
    assert broken(online(("hello", NOW - 100))) == {Broken.STALE}
    assert broken(online(("online", NOW - 100), ("offline", NOW - GRACE - 3))) == {Broken.STALE}


def test_heard_long_after_the_device_was_there() -> None:
    case = online(("online", NOW - 1))
    assert broken(case.hears(case.hearing(NOW + 2.9))) == set()
    assert broken(case.hears(case.hearing(NOW + 3.1))) == {Broken.STALE}
    assert broken(online(("online", NOW - 1)).but(expires_at=_ms(NOW + 60))) == {Broken.STALE}


def collapsing(**older: Any) -> tuple[Spoken, Spoken]:
    """An older message, published as any other, and a newer one accepted at NOW + 1."""
    first = Spoken()
    second = Spoken(first.ledger)
    for case in first, second:
        case.is_silent().but(collapse_key="position", status="published", reply_within=None)
    first.but(**older)
    return first, second


def test_what_left_before_a_newer_one_was_accepted() -> None:
    assert broken(*collapsing()) == set()
    # It was on its way.
    assert broken(*collapsing(status="unconfirmed", reason="superseded", superseded_by="id-2")) == set()
    first, second = collapsing(status="cancelled", reason="superseded", superseded_by="id-2", attempts=0)
    assert broken(first.hears(), second) == set()


def test_what_left_after_a_newer_one_was_accepted() -> None:
    assert broken(*collapsing(published_at=_ms(NOW + 1.1))) == {Broken.SUPERSEDED}
    withdrawn = {"status": "cancelled", "reason": "superseded", "superseded_by": "id-2"}
    assert broken(*collapsing(**withdrawn, attempts=0)) == {Broken.SUPERSEDED}
    first, second = collapsing(status="unconfirmed", reason="superseded", superseded_by="id-2")
    assert broken(first.hears(first.hearing(NOW + 2.1)), second) == {Broken.SUPERSEDED}
    assert broken(first, second, stalls=((NOW + 0.5, NOW + 2),)) == set()


@pytest.mark.parametrize("status", ["acknowledged", "succeeded", "failed"])
def test_what_its_device_answered_before_a_newer_one_was_accepted(status: str) -> None:
    def answering(at: float) -> set[Broken]:
        first, second = collapsing(status=status, published_at=_ms(NOW + 1.1))
        return broken(first.says(status, at).stores(status), second)

    assert answering(NOW + 0.9) == set()  # the broker's acknowledgement came last
    assert answering(NOW + 1.05) == {Broken.SUPERSEDED}


def test_a_newer_one_that_was_not_accepted_withdraws_nothing() -> None:
    first, second = collapsing(published_at=_ms(NOW + 1.1))
    second.told(None)
    assert broken(first, second) == set()


def test_other_keys_and_devices_are_not_withdrawn() -> None:
    first, second = collapsing(published_at=_ms(NOW + 1.1))
    assert broken(first, second.but(collapse_key="speed")) == set()
