"""The cause of where a message stands, for every cause there is, and what is claimed without evidence: nothing."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pytest

from chapar.delivery.causes import Cause
from chapar.delivery.explaining import limits, within
from chapar.delivery.explanation import SENTENCES, Clause, Explanation, Moment
from chapar.delivery.proofs import Kind, Proof, proofs
from chapar.delivery.verdicts import _VERDICTS, UNATTENDED_AFTER, LinkState, explain
from chapar.errors import BrokerUnanswered, ConnectionFailed
from chapar.model.audit import Entry
from chapar.model.device import Ground, Pause, Presence, State
from chapar.model.message import UNFINISHED, Attempt, Message, Status
from chapar.model.principal import Reach
from chapar.model.reason import Reason
from chapar.model.reply import Listed, MatchedBy, Reply, Unmatched, packed
from chapar.store.circumstances import MOST_IN_LINE, Ahead, Circumstances
from chapar.store.outages import Outage
from support.stores import CLAIM, PROCESS, new_message

AT: Final = 1_796_000_000_000  # when the message was accepted
NOW: Final = AT + 100_000
TIME: Final = "[0-9۰-۹]{4}-[0-9۰-۹]{2}-[0-9۰-۹]{2} [0-9۰-۹:]{8} UTC"
OTHER, NEWER = "0193b3f2-5c1e-7cc3-9d2f-000000000001", "0193b3f2-5c1e-7cc3-9d2f-000000000002"

UP = LinkState(PROCESS, up=True, since=AT - 500_000, broker="mqtt://broker:1883")
DOWN = LinkState(PROCESS, up=False, since=AT - 1000, trouble=ConnectionFailed("mqtt://broker:1883", "refused"))
UNMET = DOWN._replace(was_up=False)
STUCK = UP._replace(trouble=BrokerUnanswered("mqtt://broker:1883", 12.0))

ONLINE = Presence(State.ONLINE, AT - 5000, Ground.ANNOUNCED, stale=False)
CAME = ONLINE._replace(since=AT + 1000)
OFFLINE = Presence(State.OFFLINE, AT - 5000, Ground.ANNOUNCED, stale=False)
UNKNOWN = Presence(State.UNKNOWN, None, None, stale=False)
STALE = OFFLINE._replace(stale=True)


class Case(NamedTuple):
    """A message, what else is known, and its link."""

    message: Mapping[str, Any]
    known: Mapping[str, Any] = {}
    link: LinkState = UP


def message(status: Status, **fields: Any) -> dict[str, Any]:
    ended = {} if status in UNFINISHED else {"finished_at": AT + 4000}
    return {"status": status, "created_at": AT, "expires_at": AT + 3_600_000, "claim": None, **ended, **fields}


def waits(**fields: Any) -> dict[str, Any]:
    return message(Status.QUEUED, attempts=0) | fields


def has(**fields: Any) -> dict[str, Any]:
    """It is with the broker."""
    return message(Status.PUBLISHED, published_at=AT + 4000, reason_code=0) | fields


AWAITS: Final = {"finished_at": None, "reply_within": 30_000, "reply_by": AT + 34_000}


def reply(status: Status, word: str, at: int = AT + 6000, by: MatchedBy = MatchedBy.CORRELATION) -> Reply:
    return Reply(at, status, word, json.dumps(word), len(word), "0" * 64, truncated=False, matched_by=by)


def said(status: Status, word: str, at: int = AT + 6000, by: MatchedBy = MatchedBy.CORRELATION) -> dict[str, Any]:
    """It has this reply."""
    return has(status=status, reply=packed(reply(status, word, at, by)), reply_by=AT + 34_000, finished_at=at)


def gave_up(**fields: Any) -> dict[str, Any]:
    return has(status=Status.TIMED_OUT, reply_by=AT + 34_000, finished_at=AT + 34_100, reason="no_reply") | fields


def rejected(reason: str, code: int | None = None) -> dict[str, Any]:
    return message(Status.REJECTED, reason=reason, reason_code=code)


def ran_out(**fields: Any) -> dict[str, Any]:
    return message(Status.EXPIRED, reason="expired", expires_at=AT + 3000, attempts=0) | fields


def attempt(outcome: str, code: int | None = None, number: int = 1) -> Attempt:
    return Attempt("id", number, AT + 2000, PROCESS, outcome, code)


def ahead(status: Status = Status.QUEUED, **fields: Any) -> Ahead:
    first = Ahead(OTHER, "open", status, None, None, None, urgent=False, in_lane=False)
    return first._replace(**fields)


def withdrawn(detail: str | None) -> Entry:
    return Entry(AT + 4000, "key:a", "a", "", "message_cancelled", "id", detail=detail)


def stray(why: Unmatched = Unmatched.AMBIGUOUS, at: int = AT + 5000) -> Listed:
    return Listed(3, "d", None, why, "t", reply(Status.ACKNOWLEDGED, "pump on", at))


AWAY = Outage("a", AT - 1000, AT + 3500, "broker_connection_failed")
LATER = Listed(7, "d", "id", None, "", reply(Status.FAILED, "error", AT + 9000))
LATER_OK = Listed(7, "d", "id", None, "", reply(Status.SUCCEEDED, "ok", AT + 9000))
CONTACT: Final = {"condition": "contact", "reason": "waiting_for_contact"}
DOUBT: Final = {"possible_duplicate": True}

PAUSE: Final = Pause(AT - 1000, "Anna", "repair")

CASES: Final[dict[Cause, Case]] = {
    Cause.PAUSED: Case(waits(reason="paused"), {"pause": PAUSE}, DOWN),
    Cause.EXPIRED_PAUSED: Case(ran_out(), {"pause": PAUSE}, DOWN),
    Cause.SCHEDULED: Case(message(Status.SCHEDULED, deliver_at=AT + 900_000)),
    Cause.HELD: Case(waits(reason="held"), {"is_held": True}),
    Cause.WAITING_FOR_CONTACT: Case(waits(**CONTACT)),
    Cause.CONTACT_UNNOTICED: Case(waits(**CONTACT), {"not_receiving_since": AT}),
    Cause.CONTACT_MADE: Case(waits(**CONTACT, not_before=NOW + 1)),
    Cause.CONTACT_RETRY: Case(waits(**CONTACT, not_before=NOW + 1, reason_code=0x10)),
    Cause.CONTACT_UNSUBSCRIBED: Case(waits(**CONTACT), {"attempts": [attempt("no_matching_subscribers", 0x10)]}),
    Cause.WAITING_FOR_REPLY: Case(
        waits(reason="waiting_for_reply"),
        {"ahead": [ahead(), ahead(Status.PUBLISHED, in_lane=True, reply_by=NOW + 5000)]},
    ),
    Cause.WAITING_FOR_MESSAGE: Case(waits(reason="waiting_for_reply"), {"ahead": [ahead(in_lane=True)]}),
    Cause.WAITING_FOR_ANOTHER: Case(waits(reason="waiting_for_reply"), {"ahead": [ahead(in_lane=True, id="")]}),
    Cause.BROKER_AWAY: Case(waits(), {}, DOWN),
    Cause.BROKER_NOT_MET: Case(waits(expires_at=None), {}, UNMET._replace(trouble=None)),
    Cause.BROKER_UNRESPONSIVE: Case(waits(), {}, STUCK),
    Cause.PUT_OFF: Case(waits(not_before=NOW + 1, attempts=3), {"attempts": [attempt("quota_exceeded", 0x97, 3)]}),
    Cause.RETRIED_LATER: Case(waits(not_before=NOW + 1, **DOUBT), {"attempts": [attempt("link_lost")]}),
    Cause.SENT_AGAIN_LINK_LOST: Case(waits(**DOUBT), {"attempts": [attempt("link_lost")]}),
    Cause.SENT_AGAIN_PROCESS_DIED: Case(waits(**DOUBT), {"attempts": [attempt("process_died")]}),
    Cause.SENT_AGAIN: Case(waits(**DOUBT), {"attempts": [attempt("internal_error")]}),
    Cause.BEHIND_PUT_OFF: Case(waits(), {"ahead": [ahead(), ahead(not_before=NOW + 9)]}),
    Cause.BEHIND_IN_FLIGHT: Case(waits(), {"ahead": [ahead(Status.PUBLISHED, id="x"), ahead(Status.PUBLISHING)]}),
    Cause.BEHIND_QUEUED: Case(waits(), {"ahead": [ahead(reason="waiting_for_contact", id="x"), ahead(), ahead()]}),
    Cause.IN_LINE: Case(waits(), {"in_line": MOST_IN_LINE}),
    Cause.NEXT_IN_LINE: Case(waits(urgent=True), {"ahead": [ahead()]}),
    Cause.IN_FLIGHT: Case(message(Status.PUBLISHING, claim=CLAIM)),
    Cause.IN_FLIGHT_UNANSWERED: Case(message(Status.PUBLISHING, claim=CLAIM), {"sender_lives": True}, STUCK),
    Cause.IN_FLIGHT_LINK_DOWN: Case(message(Status.PUBLISHING, claim=CLAIM), {"sender_lives": False}, DOWN),
    Cause.IN_FLIGHT_SUPERSEDED: Case(message(Status.PUBLISHING, claim=CLAIM, superseded_by=NEWER)),
    Cause.SENDER_ENDED: Case(message(Status.PUBLISHING, claim="f" * 16 + ".1"), {"sender_lives": False}),
    Cause.PUBLISHED: Case(has()),
    Cause.PUBLISHED_SUBSCRIBED: Case(has(subscribers=True)),
    Cause.PUBLISHED_UNSUBSCRIBED: Case(has(subscribers=False), {"presence": OFFLINE}),
    Cause.PUBLISHED_OFFLINE: Case(has(), {"presence": OFFLINE}),
    Cause.PUBLISHED_AFTER_RETURN: Case(has(condition="contact"), {"presence": CAME}),
    Cause.PUBLISHED_AFTER_OUTAGE: Case(has(), {"outages": [Outage("a", AT - 9, AT - 1, None), AWAY]}),
    Cause.PUBLISHED_ON_CONTACT: Case(has(condition="contact", attempts=2), {"presence": ONLINE}),
    Cause.PUBLISHED_ON_SCHEDULE: Case(has(deliver_at=AT + 3900)),
    Cause.PUBLISHED_AGAIN: Case(has(attempts=2, **DOUBT)),
    Cause.PUBLISHED_AFTER_REFUSALS: Case(has(attempts=2)),
    Cause.RETAINED_TAKEN_BACK: Case(has(retain=True), {"attempts": [attempt("retained_cleared", 0, 0)]}),
    Cause.CLEARED: Case(has(micro_op="", origin=OTHER)),
    Cause.AWAITING_REPLY: Case(has(**AWAITS)),
    Cause.AWAITING_REPLY_UNSUBSCRIBED: Case(has(**AWAITS, subscribers=False)),
    Cause.AWAITING_REPLY_NOT_RECEIVING: Case(has(**AWAITS), {"not_receiving_since": 0}),
    Cause.AWAITING_REPLY_OFFLINE: Case(has(**AWAITS), {"presence": OFFLINE, "unmatched": [stray(at=AT + 1)]}),
    Cause.AWAITING_REPLY_UNMATCHED: Case(has(**AWAITS), {"unmatched": [stray()]}),
    Cause.DEVICE_AT_WORK: Case(said(Status.ACKNOWLEDGED, "running") | {"finished_at": None}),
    Cause.DEVICE_REPLIED: Case(said(Status.ACKNOWLEDGED, "")),
    Cause.SUCCEEDED: Case(said(Status.SUCCEEDED, "ok"), {"replies": [LATER_OK]}),
    Cause.SUCCEEDED_AFTER_RETURN: Case(said(Status.SUCCEEDED, "ok"), {"presence": CAME}),
    Cause.SUCCEEDED_BY_ORDER: Case(said(Status.SUCCEEDED, "ok", by=MatchedBy.ORDER), {"presence": CAME}),
    Cause.SUCCEEDED_LATE: Case(said(Status.SUCCEEDED, "ok", AT + 40_000)),
    Cause.SUCCEEDED_UNACKNOWLEDGED: Case(said(Status.SUCCEEDED, "ok") | {"published_at": None}),
    Cause.SUCCEEDED_CONTRADICTED: Case(said(Status.SUCCEEDED, "ok"), {"replies": [LATER]}),
    Cause.FAILED: Case(said(Status.FAILED, "error", AT + 3900)),
    Cause.FAILED_AFTER_RETURN: Case(said(Status.FAILED, "error"), {"presence": CAME}),
    Cause.FAILED_BY_ORDER: Case(said(Status.FAILED, "error", by=MatchedBy.ORDER)),
    Cause.FAILED_LATE: Case(said(Status.FAILED, "error", AT + 40_000)),
    Cause.FAILED_UNACKNOWLEDGED: Case(said(Status.FAILED, "error") | {"published_at": None, "reply_by": None}),
    Cause.FAILED_CONTRADICTED: Case(said(Status.FAILED, "error"), {"replies": [LATER_OK]}),
    Cause.NO_REPLY: Case(gave_up(), {"unmatched": [stray(at=AT + 60_000)], "not_receiving_since": 0}),
    Cause.NO_REPLY_UNMATCHED: Case(gave_up(), {"unmatched": [stray()]}),
    Cause.NO_REPLY_AFTER_PROGRESS: Case(gave_up(reply=packed(reply(Status.ACKNOWLEDGED, "running")))),
    Cause.NO_REPLY_UNSUBSCRIBED: Case(gave_up(subscribers=False)),
    Cause.NO_REPLY_NOT_RECEIVING: Case(gave_up(), {"not_receiving_since": AT}),
    Cause.NO_REPLY_OFFLINE: Case(gave_up(), {"presence": OFFLINE}),
    Cause.NO_REPLY_ONLINE: Case(gave_up(), {"presence": ONLINE}),
    Cause.DEVICE_OFFLINE: Case(rejected("device_offline"), {"presence": OFFLINE}),
    Cause.PRESENCE_UNKNOWN: Case(rejected("presence_unknown"), {"presence": UNKNOWN}),
    Cause.DEVICE_BUSY: Case(rejected("device_busy")),
    Cause.QUEUE_PAUSED: Case(rejected("paused"), {"pause": PAUSE}),
    Cause.BROKER_UNREACHABLE: Case(rejected("broker_unreachable"), {}, DOWN),
    Cause.QUARANTINED: Case(rejected("quarantined")),
    Cause.INTERNAL_ERROR: Case(rejected("internal_error")),
    Cause.OUTCOME_UNKNOWN: Case(rejected("outcome_unknown")),
    Cause.UNSPECIFIED_ERROR: Case(rejected("unspecified_error", 0x80)),
    Cause.IMPLEMENTATION_SPECIFIC_ERROR: Case(rejected("implementation_specific_error", 0x83)),
    Cause.NOT_AUTHORIZED: Case(rejected("not_authorized", 0x87)),
    Cause.TOPIC_NAME_INVALID: Case(rejected("topic_name_invalid", 0x90)),
    Cause.PACKET_IDENTIFIER_IN_USE: Case(rejected("packet_identifier_in_use", 0x91)),
    Cause.PACKET_TOO_LARGE: Case(rejected("packet_too_large", 0x95)),
    Cause.QUOTA_EXCEEDED: Case(rejected("quota_exceeded", 0x97)),
    Cause.PAYLOAD_FORMAT_INVALID: Case(rejected("payload_format_invalid", 0x99)),
    Cause.RETAIN_NOT_SUPPORTED: Case(rejected("retain_not_supported", 0x9A)),
    Cause.QOS_NOT_SUPPORTED: Case(rejected("qos_not_supported", 0x9B)),
    Cause.REFUSED: Case(rejected("server_busy", 0x89)),
    Cause.QOS_0: Case(message(Status.UNCONFIRMED, reason="qos_0", qos=0)),
    Cause.UNCONFIRMED_LINK_LOST: Case(message(Status.UNCONFIRMED, reason="link_lost")),
    Cause.UNCONFIRMED_PROCESS_DIED: Case(message(Status.UNCONFIRMED, reason="process_died")),
    Cause.UNCONFIRMED_SUPERSEDED: Case(message(Status.UNCONFIRMED, reason="superseded", superseded_by=NEWER)),
    Cause.UNCONFIRMED_HELD: Case(message(Status.UNCONFIRMED, reason="held")),
    Cause.UNCONFIRMED_FAULT: Case(message(Status.UNCONFIRMED, reason="internal_error")),
    Cause.UNCONFIRMED_NOT_AGAIN: Case(message(Status.UNCONFIRMED, reason="device_offline")),
    Cause.UNCONFIRMED: Case(message(Status.UNCONFIRMED, reason="something_new")),
    Cause.EXPIRED: Case(ran_out()),
    Cause.EXPIRED_IN_DOUBT: Case(ran_out(**DOUBT)),
    Cause.EXPIRED_UNATTENDED: Case(ran_out(finished_at=AT + 3001 + UNATTENDED_AFTER), {}, DOWN),
    Cause.EXPIRED_BROKER_AWAY: Case(ran_out(), {}, DOWN),
    Cause.EXPIRED_IN_OUTAGE: Case(ran_out(), {"outages": [AWAY]}),
    Cause.EXPIRED_UNSUBSCRIBED: Case(
        ran_out(condition="contact"), {"attempts": [attempt("no_matching_subscribers", 0x10)]}
    ),
    Cause.EXPIRED_NO_CONTACT: Case(ran_out(condition="contact"), {"last_seen": AT - 1}),
    Cause.EXPIRED_PUT_OFF: Case(ran_out(), {"attempts": [attempt("quota_exceeded", 0x97)]}),
    Cause.EXPIRED_BEHIND_REPLY: Case(ran_out(), {"held_up_by": (OTHER, "open")}),
    Cause.EXPIRED_BEHIND_ANOTHER: Case(ran_out(), {"held_up_by": ("", "")}),
    Cause.CANCELLED: Case(message(Status.CANCELLED, reason="cancelled"), {"withdrawal": withdrawn(None)}),
    Cause.CANCELLED_WITH_KEY: Case(
        message(Status.CANCELLED, reason="cancelled"), {"withdrawal": withdrawn("key revoked")}
    ),
    Cause.CANCELLED_HELD: Case(message(Status.CANCELLED, reason="cancelled"), {"withdrawal": withdrawn("held")}),
    Cause.SUPERSEDED: Case(message(Status.CANCELLED, reason="superseded", superseded_by=NEWER)),
    Cause.SUPERSEDED_CLEARING: Case(message(Status.CANCELLED, reason="superseded", micro_op="", origin=OTHER)),
    Cause.PURGED: Case(message(Status.CANCELLED, reason="purged")),
    Cause.WITHDRAWN_UNSAVED: Case(message(Status.CANCELLED, reason="outcome_unknown")),
}


def found_in(case: Case) -> Circumstances:
    return Circumstances(new_message(**case.message), **case.known)


def explained(case: Case) -> Explanation:
    return explain(found_in(case), case.link, NOW)


def test_there_is_a_case_of_every_cause_and_a_way_to_one_from_every_state() -> None:
    assert set(CASES) == set(Cause)
    assert set(_VERDICTS) == set(Status)


def test_every_sentence_is_of_a_cause() -> None:
    causes = [key.partition(".")[2] for key in SENTENCES["en"] if key.startswith("cause.")]
    assert sorted(causes) == sorted(Cause)


@pytest.mark.parametrize("cause", CASES)
def test_the_evidence_shows_the_cause(cause: Cause) -> None:
    assert explained(CASES[cause]).cause is cause


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_worded_in_both_languages_with_its_facts(cause: Cause) -> None:
    explanation = explained(CASES[cause])
    english, persian = explanation.sentence("en"), explanation.sentence("fa")
    assert re.fullmatch(r"[A-Z0-9][^{}]*[.!]", english), english
    assert "None" not in english
    assert re.search("[\u0600-\u06ff]", persian)
    assert "{" not in persian
    assert not re.search("20[0-9]{2}-", persian), "times are Jalali, in Persian digits"
    facts = explanation.named_facts("fa")
    assert facts == json.loads(json.dumps(facts))
    assert list(facts) == list(explanation.named_facts("en"))
    for language, sentence in (("en", english), ("fa", persian)):
        parts = explanation.parts(language)
        pattern = "".join(re.escape(part) if isinstance(part, str) else TIME for part in parts)
        assert re.fullmatch(pattern, sentence), parts
        assert len(re.findall(TIME, sentence)) == sum(not isinstance(part, str) for part in parts)


@pytest.mark.parametrize("cause", CASES)
def test_the_evidence_is_listed_in_the_order_of_time(cause: Cause) -> None:
    case = CASES[cause]
    listed = proofs(found_in(case), case.link, NOW, 0)
    times = [proof.at for proof in listed if proof.at is not None]
    assert times == sorted(times)
    assert listed.count(Proof(Kind.ACCEPTED, AT)) == 1


@pytest.mark.parametrize(
    ("cause", "known", "weaker"),
    [
        (Cause.PUBLISHED_OFFLINE, {"presence": None}, Cause.PUBLISHED),
        (Cause.PUBLISHED_OFFLINE, {"presence": STALE}, Cause.PUBLISHED),
        (Cause.PUBLISHED_OFFLINE, {"presence": OFFLINE._replace(since=AT + 5000)}, Cause.PUBLISHED),
        (Cause.PUBLISHED_AFTER_RETURN, {"presence": CAME._replace(since=AT + 9000)}, Cause.PUBLISHED_ON_CONTACT),
        (Cause.PUBLISHED_AFTER_RETURN, {"presence": CAME._replace(stale=True)}, Cause.PUBLISHED_ON_CONTACT),
        (
            Cause.PUBLISHED_AFTER_RETURN,
            {"presence": CAME._replace(evidence=Ground.RETAINED)},
            Cause.PUBLISHED_ON_CONTACT,
        ),
        (Cause.PUBLISHED_AFTER_OUTAGE, {"outages": [AWAY._replace(ended_at=AT + 9000)]}, Cause.PUBLISHED),
        (Cause.EXPIRED_IN_OUTAGE, {"outages": [AWAY._replace(ended_at=AT + 2000)]}, Cause.EXPIRED),
        (Cause.NO_REPLY_OFFLINE, {"presence": OFFLINE._replace(since=AT + 50_000)}, Cause.NO_REPLY),
        (Cause.NO_REPLY_ONLINE, {"presence": ONLINE._replace(since=AT + 9000)}, Cause.NO_REPLY),
        (Cause.NO_REPLY_NOT_RECEIVING, {"not_receiving_since": AT + 50_000}, Cause.NO_REPLY),
        (Cause.EXPIRED_NO_CONTACT, {"last_seen": AT + 1000}, Cause.EXPIRED),
        (Cause.CANCELLED_WITH_KEY, {"withdrawal": None}, Cause.CANCELLED),
        (Cause.BEHIND_QUEUED, {"ahead": [ahead(id="")]}, Cause.IN_LINE),
        (Cause.WAITING_FOR_REPLY, {"ahead": []}, Cause.WAITING_FOR_ANOTHER),
    ],
)
def test_what_the_evidence_does_not_show_is_not_claimed(cause: Cause, known: dict[str, Any], weaker: Cause) -> None:
    case = CASES[cause]
    assert explained(case._replace(known={**case.known, **known})).cause is weaker


def test_the_link_is_no_reason_for_what_ended_before_it_went_down() -> None:
    later = DOWN._replace(since=AT + 5000)
    assert explained(CASES[Cause.EXPIRED_BROKER_AWAY]._replace(link=later)).cause is Cause.EXPIRED
    assert "still" not in explained(CASES[Cause.BROKER_UNREACHABLE]._replace(link=later)).sentence("en")
    kinds = {proof.kind for proof in proofs(found_in(CASES[Cause.NOT_AUTHORIZED]), later, NOW, 0)}
    assert Kind.LINK not in kinds


@pytest.mark.parametrize("reason", Reason)
def test_no_reason_of_a_rejection_or_an_unconfirmed_end_is_left_without_its_cause(reason: Reason) -> None:
    ends = {
        Status.REJECTED: {
            Reason.DEVICE_OFFLINE,
            Reason.PRESENCE_UNKNOWN,
            Reason.DEVICE_BUSY,
            Reason.BROKER_UNREACHABLE,
            Reason.QUARANTINED,
            Reason.INTERNAL_ERROR,
            Reason.OUTCOME_UNKNOWN,
            *list(Reason)[list(Reason).index(Reason.UNSPECIFIED_ERROR) :],
        },
        Status.UNCONFIRMED: {
            Reason.QOS_0,
            Reason.LINK_LOST,
            Reason.PROCESS_DIED,
            Reason.SUPERSEDED,
            Reason.HELD,
            Reason.INTERNAL_ERROR,
        },
    }
    for status, reasons in ends.items():
        if reason in reasons:
            found = explained(Case(message(status, reason=reason.value))).cause
            assert found not in {Cause.REFUSED, Cause.UNCONFIRMED}


def test_times_are_set_apart_in_their_order_whatever_a_device_has_said() -> None:
    case = CASES[Cause.SUCCEEDED]
    hostile = Explanation(Cause.SUCCEEDED, {**explained(case).facts, "word": "a\0b", "said": Clause("said")})
    moments = [part for part in hostile.parts("en") if not isinstance(part, str)]
    assert moments == [part for part in explained(case).parts("en") if not isinstance(part, str)] != []
    scheduled = explained(Case(message(Status.SCHEDULED, deliver_at=AT, expires_at=AT + 1000)))
    assert scheduled.parts("en") == [
        "It is not sent before ",
        Moment(AT),
        ". It expires at ",
        Moment(AT + 1000),
        ".",
    ]


def test_lengths_and_times_are_said_as_a_reader_expects() -> None:
    said_by = {
        0: "0 s",
        3200: "3.2 s",
        45_000: "45 s",
        150_000: "2 min",
        8_000_000: "2 h",
        400_000_000: "4 days",
    }
    for waited, expected in said_by.items():
        case = Case(has(condition="contact", published_at=AT + waited, finished_at=AT + waited))
        explanation = explained(case)
        assert f"waited {expected} for" in explanation.sentence("en")
        assert explanation.named_facts("en")["waited"] == waited / 1000
    assert "۲ دقیقه" in explained(Case(has(condition="contact", published_at=AT + 150_000))).sentence("fa")
    sentence = explained(Case(message(Status.SCHEDULED, deliver_at=AT, expires_at=AT + 1000)))
    assert sentence.sentence("en") == (
        "It is not sent before 2026-11-30 00:53:20 UTC. It expires at 2026-11-30 00:53:21 UTC."
    )
    assert "۱۴۰۵-۰۹-۰۹ ۰۰:۵۳:۲۰ UTC" in sentence.sentence("fa")
    assert sentence.named_facts("en") == {
        "deliver_at": "2026-11-30T00:53:20.000Z",
        "expires_at": "2026-11-30T00:53:21.000Z",
    }


def test_other_messages_out_of_reach_are_not_named() -> None:
    found = Circumstances(
        new_message(**waits()),
        ahead=[ahead(), ahead(micro_op="close", id=NEWER)],
        held_up_by=(OTHER, "open"),
    )
    seen = within(found, Reach(operations=("close",)))
    assert [each.id for each in seen.ahead] == ["", NEWER]
    assert seen.held_up_by == ("", "")
    assert within(found, Reach()) == found


def test_evidence_of_what_waits_names_what_is_before_it() -> None:
    found = found_in(Case(waits(), {"ahead": [ahead(), ahead(id="")], "in_line": 9, "is_held": True}))
    listed = {proof.kind: proof for proof in proofs(found, UP, NOW, 5000)}
    assert listed[Kind.QUEUE].facts == {"of_device": 2, "in_all": 9}
    assert listed[Kind.BLOCKER].facts["id"] is None
    assert {Kind.HELD, Kind.LINK, Kind.CLOCK} <= set(listed)
    assert Kind.CATALOG not in listed


def test_evidence_of_the_catalog_is_as_of_now() -> None:
    listed = proofs(found_in(Case(waits(), {})), UP, NOW, 0, Proof(Kind.CATALOG, None))
    assert listed.count(Proof(Kind.CATALOG, None)) == 1
    place = [proof.kind for proof in listed].index(Kind.CATALOG)
    assert all(proof.at is None or proof.at <= NOW for proof in listed[:place])
    assert all(proof.at is None or proof.at >= NOW for proof in listed[place:])


def test_who_is_limited_is_shown_within_which_limits() -> None:
    assert list(limits(Reach())) == []
    [proof] = limits(Reach(("farm1-*", "pump"), ("open",)))
    assert proof == Proof(Kind.REACH, None, {"devices": "farm1-*, pump", "operations": "open"})


def test_evidence_of_what_is_done_names_who_did_it() -> None:
    newer: Message = new_message(id=NEWER)
    case = Case(
        said(Status.SUCCEEDED, "ok"),
        {
            "superseding": newer,
            "withdrawal": withdrawn("key revoked"),
            "replies": [LATER],
            "unmatched": [stray()],
            "presence": UNKNOWN,
            "last_seen": AT,
            "sender_lives": True,
            "not_receiving_since": 0,
        },
    )
    listed = {proof.kind: proof for proof in proofs(found_in(case), UP, NOW, 0)}
    assert listed[Kind.SUPERSEDING].facts == {"id": NEWER}
    assert listed[Kind.WITHDRAWAL].facts["detail"] == "key revoked"
    assert listed[Kind.REPLY].facts["stands"] is False
    assert listed[Kind.UNMATCHED_REPLY].facts["reason"] == "ambiguous"
    assert listed[Kind.PRESENCE].facts["state"] == "unknown"
    assert listed[Kind.SENDER].facts["alive"] is True
    assert Kind.NOT_RECEIVING not in listed, "it has its reply"
    awaiting = Case(has(**AWAITS), {"not_receiving_since": 0})
    not_receiving = next(p for p in proofs(found_in(awaiting), UP, NOW, 0) if p.kind is Kind.NOT_RECEIVING)
    assert not_receiving.at is None, "nobody knows since when"


def test_every_sentence_stands_in_both_languages_with_the_same_facts() -> None:
    english, persian = SENTENCES["en"], SENTENCES["fa"]
    assert list(english) == list(persian)
    for key, text in english.items():
        assert names_in(text) == names_in(persian[key]), key
        has_words = re.search("[a-z]", re.sub(r"{.*?}", "", str(text)))
        assert not has_words or re.search("[\u0600-\u06ff]", str(persian[key])), key
        assert not re.search("[\u0600-\u06ff]", str(text)), key


def names_in(text: str | Mapping[str, str]) -> list[set[str]]:
    """The facts that each form of a sentence names, with how they are shown."""
    forms = [text] if isinstance(text, str) else list(text.values())
    return [set(re.findall(r"{.*?}", form)) for form in forms]
