"""The judge itself: each kind of broken promise is noticed, and nothing else is."""

from typing import Any

import pytest

from faults.ledger import Entry, Ledger
from faults.listener import Hearing, topic_of
from faults.table import Row
from faults.verdict import Broken, judge

NOW = 1_800_000_000.0


class Case:
    """One message: asked for at NOW, answered 201, published and heard half a second later."""

    def __init__(self, ledger: Ledger | None = None, imei: str = "1") -> None:
        self.ledger = ledger or Ledger()
        entry = self.ledger.open(imei, "broker", NOW)
        self.id = f"id-{entry.number}"
        self.entry = entry
        self.told(201)
        self.row = Row(
            seq=entry.number,
            id=self.id,
            imei=imei,
            micro_op=entry.micro_op,
            at_most_once=False,
            status="published",
            reason=None,
            reason_code=0,
            attempts=1,
            possible_duplicate=False,
            created_at=_ms(NOW),
            deliver_at=None,
            expires_at=_ms(NOW + 3600),
            published_at=_ms(NOW + 0.5),
            finished_at=_ms(NOW + 0.5),
        )
        self.heard = [self.hearing()]

    def told(self, status: int | None) -> "Case":
        entry: Entry = self.entry
        entry.status, entry.told_at, entry.id = status, NOW + 1, self.id if status in {201, 202} else None
        return self

    def but(self, **fields: Any) -> "Case":
        self.row = self.row._replace(**fields)
        return self

    def hearing(self, at: float = NOW + 0.5, attempt: int = 1, *, redelivered: bool = False) -> Hearing:
        topic = topic_of(self.entry.imei)
        return Hearing(self.entry.number, at, attempt, redelivered=redelivered, topic=topic, id=self.id)

    def hears(self, *heard: Hearing) -> "Case":
        self.heard = list(heard)
        return self


def _ms(at: float) -> int:
    return round(at * 1000)


def broken(*cases: Case, **how: Any) -> set[Broken]:
    """What is broken where the device heard `cases` in this order."""
    rows = sorted(case.row for case in cases)
    heard = [hearing for case in cases for hearing in case.heard]
    return {what for what, offenders in judge(cases[0].ledger, rows, heard, **how).broken.items() if offenders}


def test_what_went_well_breaks_nothing() -> None:
    assert broken(Case()) == set()


@pytest.mark.parametrize("status", [201, 202, None])
def test_published_and_never_heard_is_lost(status: int | None) -> None:
    assert broken(Case().told(status).hears()) == {Broken.LOST}


@pytest.mark.parametrize("status", [201, 202])
def test_accepted_and_not_in_the_table_is_lost(status: int) -> None:
    case = Case().told(status)
    assert {what for what, each in judge(case.ledger, [], []).broken.items() if each} == {Broken.LOST}


@pytest.mark.parametrize("status", ["scheduled", "queued", "publishing"])
def test_unfinished_is_lost(status: str) -> None:
    assert broken(Case().told(202).but(status=status).hears()) == {Broken.LOST}


@pytest.mark.parametrize("status", ["acknowledged", "succeeded", "failed", "timed_out"])
def test_what_the_device_said_stands_for_published(status: str) -> None:
    assert broken(Case().but(status=status)) == set()
    assert broken(Case().told(202).but(status=status)) == set()
    assert broken(Case().told(406).but(status=status)) == {Broken.SENT_AFTER_REFUSAL}
    assert broken(Case().but(status=status).hears()) == {Broken.LOST}


@pytest.mark.parametrize("status", ["published", "acknowledged"])
def test_a_reply_that_is_awaited_for_ever_is_lost(status: str) -> None:
    assert broken(Case().told(202).but(status=status, finished_at=None)) == {Broken.LOST}


def test_answered_201_without_the_word_that_was_awaited() -> None:
    case = Case()
    case.entry.wait = "device"
    assert broken(case.but(status="acknowledged")) == {Broken.LOST}
    assert broken(case.but(status="failed")) == set()


def test_what_a_newer_one_withdrew_is_not_lost() -> None:
    assert broken(Case().told(202).but(status="cancelled", reason="superseded").hears()) == set()
    assert broken(Case().told(202).but(status="unconfirmed", reason="superseded")) == set()
    assert broken(Case().told(202).but(status="cancelled", reason="cancelled").hears()) == {Broken.LOST}


def test_rejected_after_202_is_lost() -> None:
    assert broken(Case().told(202).but(status="rejected").hears()) == {Broken.LOST}


def test_given_up_is_lost_unless_it_may_not_be_repeated() -> None:
    assert broken(Case().told(202).but(status="unconfirmed").hears()) == {Broken.LOST}
    assert broken(Case().told(202).but(status="unconfirmed", at_most_once=True).hears()) == set()
    # Its device was away when it was to be tried once more.
    assert broken(Case().told(202).but(status="unconfirmed", condition="online").hears()) == set()


@pytest.mark.parametrize("status", [406, 422, 429])
def test_heard_although_refused(status: int) -> None:
    assert broken(Case().told(status)) == {Broken.SENT_AFTER_REFUSAL}


def test_503_promises_neither() -> None:
    assert broken(Case().told(503)) == set()
    assert broken(Case().told(503).but(status="rejected").hears()) == set()


def test_heard_although_the_table_says_that_it_never_left() -> None:
    assert broken(Case().told(None).but(status="expired", finished_at=_ms(NOW + 3600))) == {Broken.SENT_AFTER_REFUSAL}


def test_heard_again_after_201() -> None:
    case = Case()
    assert broken(case.hears(case.hearing(), case.hearing(NOW + 2))) == {Broken.SENT_AGAIN}


def test_published_after_it_was_answered_with_201() -> None:
    assert broken(Case().but(published_at=_ms(NOW + 2))) == {Broken.SENT_AGAIN}


def test_the_device_may_answer_before_the_broker() -> None:
    case = Case().but(published_at=_ms(NOW + 2), status="succeeded")
    assert broken(case) == {Broken.SENT_AGAIN}
    case.entry.reply = {"status": "succeeded"}
    assert broken(case) == set()


def test_heard_again_and_not_flagged() -> None:
    case = Case().told(202).but(attempts=2)
    assert broken(case.hears(case.hearing(), case.hearing(attempt=2))) == {Broken.UNFLAGGED}
    assert broken(case.but(possible_duplicate=True)) == set()
    assert broken(case.but(at_most_once=True)) == {Broken.UNFLAGGED}


def test_what_the_broker_repeats_after_a_reconnect_is_the_same_attempt() -> None:
    case = Case()
    assert broken(case.hears(case.hearing(), case.hearing(NOW + 2, redelivered=True))) == set()


def test_two_messages_of_one_request() -> None:
    case, again = Case(), Case()
    again.ledger, again.entry, again.row = case.ledger, case.entry, again.row._replace(seq=2, id="other")
    again.heard = [case.hearing()._replace(id="other")]
    assert broken(case, again) == {Broken.SENT_AGAIN}
    assert broken(case, again.but(status="rejected").hears()) == set()


def test_overtaken_on_one_device() -> None:
    first = Case()
    second = Case(first.ledger)
    assert broken(first, second) == set()
    assert broken(second, first) == {Broken.OUT_OF_ORDER}
    # Their calls overlap, so several gateways may have accepted either first.
    assert broken(second, first, one_gateway=False) == set()
    second.entry.asked_at = NOW + 1.5
    assert broken(second, first, one_gateway=False) == {Broken.OUT_OF_ORDER}


def test_what_waits_for_its_device_and_what_is_urgent_have_no_order() -> None:
    first = Case()
    second = Case(first.ledger).but(urgent=True)
    assert broken(second, first) == set()
    assert broken(second.but(urgent=False), first.but(condition="contact")) == set()


def test_devices_do_not_wait_for_each_other() -> None:
    first = Case()
    assert broken(Case(first.ledger, imei="2"), first) == set()


def test_accepted_in_another_order_than_asked() -> None:
    first = Case()
    second = Case(first.ledger).but(seq=0)
    assert broken(second, first) == {Broken.OUT_OF_ORDER}


def test_heard_before_its_time() -> None:
    case = Case()
    case.entry.deliver_at = _ms(NOW + 0.6)
    assert broken(case.but(deliver_at=case.entry.deliver_at)) == {Broken.EARLY}


def test_expired_before_its_time() -> None:
    assert broken(Case().told(406).but(status="expired").hears()) == {Broken.EARLY}


def test_heard_after_its_expiry() -> None:
    case = Case().but(expires_at=_ms(NOW + 1))
    assert broken(case.hears(case.hearing(NOW + 1.9))) == set()
    assert broken(case.hears(case.hearing(NOW + 2.1))) == {Broken.AFTER_EXPIRY}
    assert broken(case, stalls=[(NOW + 0.5, NOW + 2)]) == set()
    assert broken(case, stalls=[(NOW + 1.5, NOW + 2)]) == {Broken.AFTER_EXPIRY}
