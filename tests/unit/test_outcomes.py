"""Where a message stands after an attempt, for everything that the link can say of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from chapar.delivery import outcomes
from chapar.delivery.outcomes import MAX_ATTEMPTS, Facts, Outcome, Said
from chapar.errors import (
    BrokerClosed,
    BrokerRefused,
    BrokerSilent,
    BrokerUnreachable,
    DeliveryFaulty,
    DeviceBusy,
    DeviceOffline,
    LinkDown,
    LinkLost,
    MessageCancelled,
    MessageExpired,
    MessagePurged,
    MessageSuperseded,
    NotSent,
    PresenceUnknown,
    PublicationExpired,
    PublicationInvalid,
    Quarantined,
)
from chapar.link.reason_codes import TRANSIENT, reason_slug
from chapar.model.message import AT_BROKER, UNFINISHED, Attempt, Message, Status
from chapar.model.reason import Reason
from support.fakes import EPOCH, PROCESS
from support.stores import CLAIM, new_message

FACTS = Facts(EPOCH, PROCESS, reports_subscribers=False)
REPORTS = FACTS._replace(reports_subscribers=True)
NOT_AUTHORIZED, QUOTA_EXCEEDED, PACKET_TOO_LARGE, UNLISTED = 0x87, 0x97, 0x95, 0xC1
BLAMED = LinkLost(BrokerClosed("mqtt://fake", "Malformed Packet", 0x81))
SILENT = LinkLost(BrokerSilent("mqtt://fake", 15.0))
CLOSED = LinkLost(None)
TOO_LARGE = PublicationInvalid("size", 1, 2, PACKET_TOO_LARGE)
FIRST, LATER = {"attempts": 1}, {"attempts": 3}
ONCE = {"at_most_once": True}
NEVER_MORE = {"claim": None, "finished_at": EPOCH}
WAITS = {"status": Status.QUEUED, "claim": None, "reason": None, "finished_at": None}
UNTRIED = {"attempts": 0}
DOUBTFUL = WAITS | {"possible_duplicate": True}


def published(**fields: Any) -> dict[str, Any]:
    return NEVER_MORE | {"status": Status.PUBLISHED, "reason": None, "published_at": EPOCH} | fields


def ended(status: Status, reason: str, **fields: Any) -> dict[str, Any]:
    return NEVER_MORE | {"status": status, "reason": reason, "published_at": None} | fields


class Case(NamedTuple):
    said: Said
    before: dict[str, Any]  #: of a message that is on its way
    after: dict[str, Any]  #: what has changed and is not as it was
    kept: Sequence[tuple[int, str, int | None]] = ()  #: of its attempts: number, outcome, reason code
    facts: Facts = FACTS
    may_queue: bool = True


CONTACT = FIRST | {"condition": "contact", "contact_until": EPOCH + 10_000}
TOLD_APART = {"reason": "waiting_for_contact", "reason_code": 0x10, "possible_duplicate": False}

CASES = {
    "acknowledged": Case(0x00, FIRST, published(reason_code=0x00, subscribers=None)),
    "acknowledged, and a reply is awaited": Case(
        0x00, FIRST | {"reply_within": 5000}, published(reason_code=0, finished_at=None, reply_by=EPOCH + 5000)
    ),
    "acknowledged, and somebody listens": Case(0x00, FIRST, published(reason_code=0, subscribers=True), [], REPORTS),
    "acknowledged, and nobody listens": Case(0x10, FIRST, published(reason_code=0x10, subscribers=False), [], REPORTS),
    "nobody listens, the first that says so": Case(0x10, FIRST, published(reason_code=0x10, subscribers=False)),
    "acknowledged at last": Case(0x00, LATER, published(reason_code=0, attempts=3), [(3, "published", 0)]),
    "acknowledged the second time": Case(
        0x10, {"attempts": 2}, published(reason_code=0x10, subscribers=False), [(2, "published", 0x10)]
    ),
    "QoS 2 is acknowledged": Case(0x00, {"qos": 2}, published(reason_code=0)),
    "QoS 0 left": Case(0x00, {"qos": 0, **ONCE}, ended(Status.UNCONFIRMED, "qos_0", reason_code=None)),
    "refused": Case(
        NOT_AUTHORIZED,
        FIRST,
        ended(Status.REJECTED, "not_authorized", reason_code=NOT_AUTHORIZED, attempts=1),
        [(1, "not_authorized", NOT_AUTHORIZED)],
    ),
    "refused with a code without a name": Case(
        UNLISTED, FIRST, ended(Status.REJECTED, "reason_0xc1", reason_code=UNLISTED), [(1, "reason_0xc1", UNLISTED)]
    ),
    "put off": Case(
        QUOTA_EXCEEDED,
        FIRST,
        WAITS | {"attempts": 1, "possible_duplicate": False},
        [(1, "quota_exceeded", QUOTA_EXCEEDED)],
    ),
    "put off for a call that would not queue": Case(
        QUOTA_EXCEEDED,
        FIRST,
        ended(Status.REJECTED, "quota_exceeded", reason_code=QUOTA_EXCEEDED),
        [(1, "quota_exceeded", QUOTA_EXCEEDED)],
        may_queue=False,
    ),
    "put off too often": Case(
        QUOTA_EXCEEDED,
        {"attempts": MAX_ATTEMPTS},
        ended(Status.REJECTED, "quota_exceeded", attempts=MAX_ATTEMPTS),
        [(MAX_ATTEMPTS, "quota_exceeded", QUOTA_EXCEEDED)],
    ),
    "no link": Case(LinkDown(), FIRST, WAITS | UNTRIED | {"possible_duplicate": False, "not_before": None}),
    "no link for the next attempt": Case(LinkDown(), LATER, WAITS | {"attempts": 2, "possible_duplicate": False}),
    "no link for a call that would not queue": Case(
        LinkDown(), FIRST, ended(Status.REJECTED, "broker_unreachable", **UNTRIED), may_queue=False
    ),
    "lost": Case(SILENT, FIRST, DOUBTFUL | {"attempts": 1}, [(1, "link_lost", None)]),
    "lost, and the broker said why": Case(BLAMED, LATER, DOUBTFUL | {"attempts": 3}, [(3, "link_lost", 0x81)]),
    "lost, because we closed": Case(CLOSED, FIRST, DOUBTFUL, [(1, "link_lost", None)]),
    "lost for a call that would not queue": Case(SILENT, FIRST, DOUBTFUL, [(1, "link_lost", None)], may_queue=False),
    "lost, and sent once": Case(
        SILENT, ONCE, ended(Status.UNCONFIRMED, "link_lost", possible_duplicate=False), [(1, "link_lost", None)]
    ),
    "too late": Case(PublicationExpired(), FIRST, ended(Status.EXPIRED, "expired", **UNTRIED)),
    "nobody is there, who spoke": Case(
        0x10,
        CONTACT,
        WAITS | TOLD_APART | {"attempts": 1, "not_before": EPOCH + 2000, "contact_until": EPOCH + 10_000},
        [(1, "no_matching_subscribers", 0x10)],
        REPORTS,
    ),
    "nobody is there, the second time": Case(
        0x10,
        CONTACT | {"attempts": 2, "reason_code": 0x10},
        WAITS | TOLD_APART | {"attempts": 2, "not_before": None, "contact_until": EPOCH + 10_000},
        [(2, "no_matching_subscribers", 0x10)],
    ),
    "nobody is there, and the window is over soon": Case(
        0x10,
        CONTACT | {"contact_until": EPOCH + 2000},
        WAITS | TOLD_APART | {"not_before": None},
        [(1, "no_matching_subscribers", 0x10)],
    ),
    "somebody is there": Case(0x00, CONTACT, published(reason_code=0, subscribers=None)),
    "the window is over": Case(
        PublicationExpired(),
        CONTACT | {"contact_until": EPOCH, "expires_at": EPOCH + 60_000},
        WAITS | UNTRIED | {"reason": "waiting_for_contact", "contact_until": None},
    ),
    "the window is over, and the time of the message": Case(
        PublicationExpired(),
        CONTACT | {"contact_until": EPOCH, "expires_at": EPOCH},
        ended(Status.EXPIRED, "expired", **UNTRIED),
    ),
    "given up by the link a moment too soon": Case(
        PublicationExpired(), {"expires_at": EPOCH + 1}, WAITS | UNTRIED | {"not_before": EPOCH + 1}
    ),
    "given up by the link a moment before the window is over": Case(
        PublicationExpired(),
        CONTACT | {"contact_until": EPOCH + 1, "expires_at": EPOCH + 60_000},
        WAITS | UNTRIED | {"not_before": EPOCH + 1, "contact_until": EPOCH + 1},
    ),
    "given up by the link before its time, which is before the window's": Case(
        PublicationExpired(),
        CONTACT | {"expires_at": EPOCH + 1},
        WAITS | UNTRIED | {"not_before": EPOCH + 1, "contact_until": EPOCH + 10_000},
    ),
    "impossible": Case(
        TOO_LARGE, FIRST, ended(Status.REJECTED, "packet_too_large", reason_code=PACKET_TOO_LARGE, **UNTRIED)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_of_an_attempt(name: str) -> None:
    case = CASES[name]
    message = on_its_way(**case.before)
    outcome = outcomes.outcome(message, case.said, case.facts, may_queue=case.may_queue)
    check(outcome, message, case.after, case.kept)


def test_what_is_for_a_device_that_is_online_never_waits_but_for_a_second_attempt() -> None:
    message = on_its_way(condition="online")
    outcome = outcomes.not_now(message, FACTS)
    check(outcome, message, ended(Status.REJECTED, "device_busy", **UNTRIED), [])
    again = on_its_way(condition="online", possible_duplicate=True, attempts=2)
    check(outcomes.not_now(again, FACTS), again, WAITS | {"attempts": 1, "not_before": EPOCH + 1000}, [])


@pytest.mark.parametrize("code", [*TRANSIENT])
def test_a_refusal_that_may_pass_puts_a_message_off(code: int) -> None:
    message = on_its_way()
    outcome = outcomes.outcome(message, code, FACTS, may_queue=True)
    check(outcome, message, WAITS, [(1, reason_slug(code), code)])
    assert outcome.message.not_before is not None


@pytest.mark.parametrize("attempts", range(1, MAX_ATTEMPTS))
def test_a_message_put_off_waits_twice_as_long_each_time_and_a_minute_at_most(attempts: int) -> None:
    waits = set()
    for _ in range(20):
        message = on_its_way(attempts=attempts)
        not_before = outcomes.outcome(message, QUOTA_EXCEEDED, FACTS, may_queue=True).message.not_before
        assert not_before is not None
        waits.add(not_before - EPOCH)
    longest = min(1000 * 2 ** (attempts - 1), 60_000)
    assert longest / 2 <= min(waits)
    assert max(waits) <= longest
    assert len(waits) > 15, "what was put off together does not come back together"


@pytest.mark.parametrize("not_before", [None, EPOCH + 1000])
def test_what_was_not_tried_waits_where_it_was(not_before: int | None) -> None:
    message = on_its_way(attempts=2)
    outcome = outcomes.given_back(message, not_before)
    check(outcome, message, WAITS | {"attempts": 1, "not_before": not_before, "possible_duplicate": False}, [])


def test_what_is_taken_for_the_cause_is_tried_no_more() -> None:
    message = on_its_way(attempts=3, possible_duplicate=True)
    outcome = outcomes.quarantined(message, 0x81, FACTS)
    check(outcome, message, ended(Status.REJECTED, "quarantined", attempts=2, reason_code=0x81), [])


@pytest.mark.parametrize(
    ("before", "may_have_left", "after"),
    [
        (FIRST, False, ended(Status.REJECTED, "internal_error", **UNTRIED)),
        (FIRST, True, DOUBTFUL | {"attempts": 1}),
        ({"possible_duplicate": True}, True, ended(Status.UNCONFIRMED, "internal_error", attempts=1)),
        (ONCE, True, ended(Status.UNCONFIRMED, "internal_error")),
    ],
)
def test_a_fault_of_ours_ends_an_attempt(before: dict[str, Any], after: dict[str, Any], *, may_have_left: bool) -> None:
    message = on_its_way(**before)
    outcome = outcomes.faulty(message, FACTS, may_have_left=may_have_left)
    check(outcome, message, after, [(1, "internal_error", None)])


@pytest.mark.parametrize("attempts", [1, 2])
def test_what_cleared_a_retained_message_is_kept_with_that(attempts: int) -> None:
    clearing = on_its_way(micro_op="", retain=True, origin="retained", attempts=attempts)
    outcome = outcomes.outcome(clearing, 0x10, FACTS, may_queue=True)
    assert outcome.message.status is Status.PUBLISHED
    assert outcome.attempts[-1] == Attempt("retained", 0, EPOCH, PROCESS, "retained_cleared", 0x10)
    assert len(outcome.attempts) == attempts


def test_a_clearing_that_is_refused_has_cleared_nothing() -> None:
    clearing = on_its_way(micro_op="", retain=True, origin="retained")
    (kept,) = outcomes.outcome(clearing, NOT_AUTHORIZED, FACTS, may_queue=True).attempts
    assert (kept.message_id, kept.outcome) == (clearing.id, "not_authorized")


def test_every_reason_of_an_ended_message_is_a_plain_text_of_the_list() -> None:
    for name, case in CASES.items():
        after = outcomes.outcome(on_its_way(**case.before), case.said, case.facts, may_queue=case.may_queue).message
        if after.reason is not None:
            assert type(after.reason) is str, name
            assert after.reason in [*Reason] or case.said == UNLISTED, name


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": Status.REJECTED, "reason": "quarantined", "reason_code": 0x81}, Quarantined),
        ({"status": Status.REJECTED, "reason": "internal_error"}, DeliveryFaulty),
        ({"status": Status.REJECTED, "reason_code": NOT_AUTHORIZED}, BrokerRefused),
        ({"status": Status.REJECTED, "reason": "broker_unreachable"}, BrokerUnreachable),
        ({"status": Status.EXPIRED}, MessageExpired),
        ({"status": Status.REJECTED, "reason": "device_offline"}, DeviceOffline),
        ({"status": Status.REJECTED, "reason": "presence_unknown"}, PresenceUnknown),
        ({"status": Status.REJECTED, "reason": "device_busy"}, DeviceBusy),
        ({"status": Status.CANCELLED}, MessageCancelled),
        ({"status": Status.CANCELLED, "reason": "superseded"}, MessageSuperseded),
        ({"status": Status.CANCELLED, "reason": "purged"}, MessagePurged),
        *(({"status": status}, None) for status in (*UNFINISHED, *AT_BROKER)),
    ],
)
def test_not_sent_is_said_only_where_no_attempt_is_in_doubt(
    fields: dict[str, Any], error: type[NotSent] | None
) -> None:
    message = on_its_way(**fields)
    said = outcomes.not_sent(message)
    assert type(said) is (error or type(None))
    assert said is None or said.id == message.id
    assert outcomes.not_sent(message._replace(possible_duplicate=True)) is None


def test_a_refusal_names_what_the_broker_said() -> None:
    said = outcomes.not_sent(on_its_way(status=Status.REJECTED, reason_code=NOT_AUTHORIZED))
    assert isinstance(said, BrokerRefused)
    assert (said.reason_name, said.reason_code) == ("Not authorized", NOT_AUTHORIZED)


def on_its_way(**fields: Any) -> Message:
    return new_message(**{"created_at": EPOCH} | fields)


def check(
    outcome: Outcome, message: Message, after: dict[str, Any], kept: Sequence[tuple[int, str, int | None]]
) -> None:
    assert message.claim == CLAIM
    assert outcome.message._asdict().items() >= after.items()
    same = ("id", "imei", "micro_op", "params", "topic", "qos", "retain", "at_most_once", "created_at", "expires_at")
    assert [getattr(outcome.message, name) for name in same] == [getattr(message, name) for name in same]
    assert list(outcome.attempts) == [
        Attempt(message.id, number, EPOCH, PROCESS, said, reason_code) for number, said, reason_code in kept
    ]
