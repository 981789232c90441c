"""Verdicts: from all that is known of a message, the one cause of where it stands, and its facts. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from chapar.delivery.causes import Cause
from chapar.delivery.explanation import NOTHING, Clause, Explanation, Fact, Facts, Length, Moment
from chapar.delivery.outcomes import MAX_ATTEMPTS
from chapar.errors import (
    BrokerError,
    BrokerUnanswered,
    Phrase,
)
from chapar.link.reason_codes import NO_MATCHING_SUBSCRIBERS, TRANSIENT, reason_name
from chapar.model.audit import KEY_REVOKED
from chapar.model.device import Ground, Presence, State
from chapar.model.message import FINAL_WORDS, Attempt, Condition, Message, Status
from chapar.model.reason import Reason
from chapar.model.reply import MatchedBy, Reply, standing
from chapar.store.circumstances import MOST_IN_LINE, Ahead, Circumstances
from chapar.store.outages import Outage

UNATTENDED_AFTER: Final = 10_000
"""Milliseconds by which an expiry is noticed late where a gateway looks after the queue; it does so every second."""

EARLIEST: Final = 86_400_000
"""Ms since the epoch up to which `not_receiving_since` is no time: whoever received before ended, nobody knows when."""

_WITH_CODE: Final[Mapping[str, Cause]] = {
    cause.value: cause
    for cause in (
        Cause.UNSPECIFIED_ERROR,
        Cause.IMPLEMENTATION_SPECIFIC_ERROR,
        Cause.NOT_AUTHORIZED,
        Cause.TOPIC_NAME_INVALID,
        Cause.PACKET_IDENTIFIER_IN_USE,
        Cause.PACKET_TOO_LARGE,
        Cause.QUOTA_EXCEEDED,
        Cause.PAYLOAD_FORMAT_INVALID,
        Cause.RETAIN_NOT_SUPPORTED,
        Cause.QOS_NOT_SUPPORTED,
        Cause.DEVICE_OFFLINE,
        Cause.PRESENCE_UNKNOWN,
        Cause.DEVICE_BUSY,
        Cause.BROKER_UNREACHABLE,
        Cause.QUARANTINED,
        Cause.INTERNAL_ERROR,
        Cause.OUTCOME_UNKNOWN,
    )
} | {Reason.PAUSED.value: Cause.QUEUE_PAUSED}
"""Causes of a rejection that are the reason of the message."""

_UNCONFIRMED: Final[Mapping[str | None, Cause]] = {
    Reason.QOS_0.value: Cause.QOS_0,
    Reason.LINK_LOST.value: Cause.UNCONFIRMED_LINK_LOST,
    Reason.PROCESS_DIED.value: Cause.UNCONFIRMED_PROCESS_DIED,
    Reason.SUPERSEDED.value: Cause.UNCONFIRMED_SUPERSEDED,
    Reason.HELD.value: Cause.UNCONFIRMED_HELD,
    Reason.INTERNAL_ERROR.value: Cause.UNCONFIRMED_FAULT,
    Reason.DEVICE_OFFLINE.value: Cause.UNCONFIRMED_NOT_AGAIN,
    Reason.PRESENCE_UNKNOWN.value: Cause.UNCONFIRMED_NOT_AGAIN,
    Reason.DEVICE_BUSY.value: Cause.UNCONFIRMED_NOT_AGAIN,
}

_WITH_DEVICE: Final = frozenset({Status.PUBLISHED, Status.ACKNOWLEDGED})


class LinkState(NamedTuple):
    """The link of this gateway process to the broker."""

    process: str  #: token of the process
    up: bool  #: whether there is a session
    since: int  #: when it began or ended, ms since the epoch; where there was none yet, when the process began to try
    was_up: bool = True  #: whether there ever was one
    broker: str | None = None  #: the connected one
    trouble: BrokerError | None = None  #: why nothing, or not everything, can be delivered


class _Verdict(NamedTuple):
    """A cause, and the facts that only it has."""

    cause: Cause
    facts: Facts = NOTHING


def explain(found: Circumstances, link: LinkState, now: int) -> Explanation:
    """The cause of where a message stands at the time `now`, as far as the evidence shows it."""
    verdict = _VERDICTS[found.message.status](found, link)
    return Explanation(verdict.cause, {**_facts(found, link, now), **verdict.facts})


def _facts(found: Circumstances, link: LinkState, now: int) -> dict[str, Fact]:
    """The facts of any cause, as far as there are such."""
    message, presence = found.message, found.presence
    reply = standing(message)
    reason_code = message.reason_code
    due_at = message.deliver_at or message.created_at
    facts: dict[str, Fact] = {
        "topic": message.topic,
        "qos": message.qos,
        "attempts": message.attempts,
        "most": MAX_ATTEMPTS,
        "reason": message.reason,
        "reason_code": reason_code,
        "reason_name": None if reason_code is None else reason_name(reason_code),
        "superseded_by": message.superseded_by,
        "origin": message.origin,
        "link_since": Moment(link.since),
        "link_error": link.trouble or Phrase("link.not_yet"),
        "until": Clause("" if message.expires_at is None else "expires"),
        "doubt": Clause("doubt" if message.possible_duplicate else ""),
        "newer": Clause("" if message.superseded_by is None else "newer"),
        "now": Moment(now),
    }
    if (pause := found.pause) is not None:
        facts |= {"paused_since": Moment(pause.since), "paused_by": pause.by, "pause_reason": pause.note}
    facts["by"] = Clause("paused_by" if pause is not None and pause.by else "")
    facts["because"] = Clause("pause_reason" if pause is not None and pause.note else "")
    times = {
        "deliver_at": message.deliver_at,
        "expires_at": message.expires_at,
        "not_before": message.not_before,
        "published_at": message.published_at,
        "finished_at": message.finished_at,
        "reply_by": message.reply_by,
        "not_receiving_since": found.not_receiving_since,
        "presence_since": None if presence is None else presence.since,
        "replied_at": None if reply is None else reply.at,
    }
    facts |= {name: Moment(at) for name, at in times.items() if at is not None}
    if message.published_at is not None:
        facts["waited"] = Length(max(0, message.published_at - due_at))
    if message.finished_at is not None and message.expires_at is not None:
        facts["noticed_after"] = Length(max(0, message.finished_at - message.expires_at))
    if reply is not None:
        facts |= {"word": reply.word, "said": Clause("said" if reply.word else "")}
        facts |= _times_of_reply(message, reply)
    return facts


def _times_of_reply(message: Message, reply: Reply) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"took": Clause("")}
    if message.published_at is not None and reply.at >= message.published_at:
        facts |= {"took": Clause("took"), "replied_after": Length(reply.at - message.published_at)}
    if message.reply_by is not None:
        facts["late_by"] = Length(max(0, reply.at - message.reply_by))
    return facts


def _is_held(found: Circumstances) -> bool:
    return found.is_held or found.message.reason == Reason.HELD


def _is_offline(presence: Presence | None) -> bool:
    """Return whether a device is known to be offline; what may have changed unnoticed is not known."""
    return presence is not None and presence.state is State.OFFLINE and not presence.stale


def _is_online(presence: Presence | None) -> bool:
    return presence is not None and presence.state is State.ONLINE and not presence.stale


def _is_since(presence: Presence | None, at: int | None) -> bool:
    """Return whether a device's presence has not changed since a time."""
    return presence is not None and presence.since is not None and at is not None and presence.since <= at


def _came_back(found: Circumstances, by: int | None) -> Length | None:
    """Return how long before `by` its device came online, where that was after the message was due.

    What a subscription found retained says nothing of when the device came.
    """
    message, presence = found.message, found.presence
    if by is None or presence is None or presence.since is None or not _is_online(presence):
        return None
    if presence.evidence is Ground.RETAINED:
        return None
    due_at = message.deliver_at or message.created_at
    return Length(by - presence.since) if due_at < presence.since <= by else None


def _outage_at(found: Circumstances, at: int) -> Outage | None:
    """The outage in which a time was."""
    return next((each for each in found.outages if each.began_at <= at < each.ended_at), None)


def _facts_of(outage: Outage | None) -> dict[str, Fact]:
    if outage is None:
        return {}
    return {"outage_began": Moment(outage.began_at), "outage_ended": Moment(outage.ended_at)}


def _last_loss(found: Circumstances) -> Attempt | None:
    """The last attempt whose outcome nobody knows."""
    unknown = {Reason.LINK_LOST.value, Reason.PROCESS_DIED.value, Reason.INTERNAL_ERROR.value}
    return next((each for each in reversed(found.attempts) if each.attempt and each.outcome in unknown), None)


def _first(*cases: tuple[bool, Cause], otherwise: Cause) -> Cause:
    """The cause of the first case that is so."""
    return next((cause for is_so, cause in cases if is_so), otherwise)


def _of_scheduled(found: Circumstances, _: LinkState) -> _Verdict:
    return _Verdict(Cause.HELD if _is_held(found) else Cause.SCHEDULED)


def _of_queued(found: Circumstances, link: LinkState) -> _Verdict:
    message = found.message
    if _is_held(found):
        return _Verdict(Cause.HELD)
    if found.pause is not None:
        return _Verdict(Cause.PAUSED)
    if message.reason == Reason.WAITING_FOR_CONTACT:
        return _Verdict(_waiting_for_contact(found))
    if message.reason == Reason.WAITING_FOR_REPLY:
        return _waiting_for_reply(found.ahead)
    if not link.up:
        return _Verdict(Cause.BROKER_AWAY if link.was_up else Cause.BROKER_NOT_MET)
    return _waiting_for_turn(found, link)


def _waiting_for_turn(found: Circumstances, link: LinkState) -> _Verdict:
    """The cause of what waits for nothing but its turn."""
    message = found.message
    ahead = [] if message.urgent else [each for each in found.ahead if _is_in_its_way(each)]
    if message.not_before is not None:
        return _put_off(found)
    if isinstance(link.trouble, BrokerUnanswered):
        return _Verdict(Cause.BROKER_UNRESPONSIVE)
    if ahead:
        return _behind(ahead)
    if message.possible_duplicate:
        return _sent_again(found)
    return _in_line(found.in_line) if found.in_line else _Verdict(Cause.NEXT_IN_LINE)


def _in_line(count: int, most: int = MOST_IN_LINE) -> _Verdict:
    return _Verdict(Cause.IN_LINE, {"count": count, "at_least": Clause("at_least" if count >= most else "")})


def _waiting_for_contact(found: Circumstances) -> Cause:
    message = found.message
    if message.not_before is not None:
        is_retry = message.reason_code == NO_MATCHING_SUBSCRIBERS
        return Cause.CONTACT_RETRY if is_retry else Cause.CONTACT_MADE
    if any(each.reason_code == NO_MATCHING_SUBSCRIBERS for each in found.attempts):
        return Cause.CONTACT_UNSUBSCRIBED
    return Cause.WAITING_FOR_CONTACT if found.not_receiving_since is None else Cause.CONTACT_UNNOTICED


def _waiting_for_reply(ahead: Sequence[Ahead]) -> _Verdict:
    lane = [each for each in ahead if each.in_lane]
    asked = [each for each in lane if each.status in _WITH_DEVICE]
    leaving = [each for each in lane if each.status is Status.PUBLISHING or each.reason is None]
    first = next(iter(asked or leaving), None)
    if first is None or not first.id:
        return _Verdict(Cause.WAITING_FOR_ANOTHER)
    if asked and first.reply_by is not None:
        return _Verdict(Cause.WAITING_FOR_REPLY, {"blocker": first.id, "blocker_until": Moment(first.reply_by)})
    return _Verdict(Cause.WAITING_FOR_MESSAGE, {"blocker": first.id})


def _put_off(found: Circumstances) -> _Verdict:
    last = next(reversed(found.attempts), None)
    if last is not None and last.reason_code in TRANSIENT and last.reason_code is not None:
        return _Verdict(Cause.PUT_OFF, {"reason_name": reason_name(last.reason_code)})
    return _Verdict(Cause.RETRIED_LATER)


def _is_in_its_way(ahead: Ahead) -> bool:
    """Return whether another message of the device leaves first, or is in the way of all behind it."""
    if ahead.status is Status.PUBLISHING:
        return True
    return ahead.status is Status.QUEUED and ahead.reason is None


def _behind(ahead: Sequence[Ahead]) -> _Verdict:
    shown = [each for each in ahead if each.id]
    put_off = next((each for each in shown if each.not_before is not None), None)
    if put_off is not None and put_off.not_before is not None:
        return _Verdict(Cause.BEHIND_PUT_OFF, {"blocker": put_off.id, "blocker_until": Moment(put_off.not_before)})
    if not shown:
        return _in_line(len(ahead), most=0)
    if shown[0].status is Status.PUBLISHING:
        return _Verdict(Cause.BEHIND_IN_FLIGHT, {"blocker": shown[0].id})
    return _Verdict(Cause.BEHIND_QUEUED, {"blocker": shown[0].id, "count": len(ahead)})


def _sent_again(found: Circumstances) -> _Verdict:
    loss = _last_loss(found)
    if loss is None or loss.outcome == Reason.INTERNAL_ERROR:
        return _Verdict(Cause.SENT_AGAIN)
    is_link = loss.outcome == Reason.LINK_LOST
    cause = Cause.SENT_AGAIN_LINK_LOST if is_link else Cause.SENT_AGAIN_PROCESS_DIED
    return _Verdict(cause, {"lost_at": Moment(loss.at)})


def _of_publishing(found: Circumstances, link: LinkState) -> _Verdict:
    message = found.message
    is_ours = (message.claim or "").startswith(link.process)
    cause = _first(
        (found.sender_lives is False and not is_ours, Cause.SENDER_ENDED),
        (message.superseded_by is not None, Cause.IN_FLIGHT_SUPERSEDED),
        (is_ours and not link.up, Cause.IN_FLIGHT_LINK_DOWN),
        (is_ours and isinstance(link.trouble, BrokerUnanswered), Cause.IN_FLIGHT_UNANSWERED),
        otherwise=Cause.IN_FLIGHT,
    )
    return _Verdict(cause)


def _of_published(found: Circumstances, _: LinkState) -> _Verdict:
    message, presence = found.message, found.presence
    forgotten = next((each for each in found.attempts if not each.attempt), None)
    if forgotten is not None:
        return _Verdict(Cause.RETAINED_TAKEN_BACK, {"cleared_at": Moment(forgotten.at)})
    if message.finished_at is None:
        return _awaiting_reply(found)
    after_return = _came_back(found, message.published_at)
    is_for_contact = message.condition == Condition.CONTACT
    outage = _outage_at(found, message.deliver_at or message.created_at)
    after_outage = (message.published_at or 0) - (0 if outage is None else outage.ended_at)
    was_offline = _is_offline(presence) and _is_since(presence, message.published_at)
    cause = _first(
        (message.clears, Cause.CLEARED),
        (message.subscribers is False, Cause.PUBLISHED_UNSUBSCRIBED),
        (was_offline, Cause.PUBLISHED_OFFLINE),
        (message.possible_duplicate, Cause.PUBLISHED_AGAIN),
        (message.attempts > 1 and not is_for_contact, Cause.PUBLISHED_AFTER_REFUSALS),
        (after_return is not None, Cause.PUBLISHED_AFTER_RETURN),
        (outage is not None and after_outage >= 0, Cause.PUBLISHED_AFTER_OUTAGE),
        (is_for_contact, Cause.PUBLISHED_ON_CONTACT),
        (message.deliver_at is not None, Cause.PUBLISHED_ON_SCHEDULE),
        (message.subscribers is True, Cause.PUBLISHED_SUBSCRIBED),
        otherwise=Cause.PUBLISHED,
    )
    return _Verdict(cause, {"after_return": after_return, "after_outage": Length(after_outage)} | _facts_of(outage))


def _awaiting_reply(found: Circumstances) -> _Verdict:
    unmatched = _unmatched(found)
    cause = _first(
        (found.message.subscribers is False, Cause.AWAITING_REPLY_UNSUBSCRIBED),
        (found.not_receiving_since is not None, Cause.AWAITING_REPLY_NOT_RECEIVING),
        (bool(unmatched), Cause.AWAITING_REPLY_UNMATCHED),
        (_is_offline(found.presence), Cause.AWAITING_REPLY_OFFLINE),
        otherwise=Cause.AWAITING_REPLY,
    )
    return _Verdict(cause, unmatched)


def _unmatched(found: Circumstances) -> Facts:
    """The newest reply of its device to no message that came while one to this message was awaited."""
    begin, end = found.message.published_at, found.message.reply_by
    for listed in found.unmatched:
        if begin is not None and begin <= listed.reply.at and (end is None or listed.reply.at <= end):
            assert listed.reason is not None  # noqa: S101 - it belongs to no message
            return {"unmatched_at": Moment(listed.reply.at), "unmatched_why": Clause(listed.reason.value)}
    return NOTHING


def _of_acknowledged(found: Circumstances, _: LinkState) -> _Verdict:
    return _Verdict(Cause.DEVICE_AT_WORK if found.message.finished_at is None else Cause.DEVICE_REPLIED)


def _of_answered(found: Circumstances, _: LinkState) -> _Verdict:
    message, reply = found.message, standing(found.message)
    assert reply is not None  # noqa: S101 - it made the status
    others = [each.reply for each in found.replies if each.seq and each.reply.status in FINAL_WORDS]
    other = next((each for each in others if each.status is not message.status), None)
    after_return = _came_back(found, reply.at)
    cause = _first(
        (other is not None, Cause.SUCCEEDED_CONTRADICTED),
        (message.reply_by is not None and reply.at > message.reply_by, Cause.SUCCEEDED_LATE),
        (message.published_at is None, Cause.SUCCEEDED_UNACKNOWLEDGED),
        (reply.matched_by is MatchedBy.ORDER, Cause.SUCCEEDED_BY_ORDER),
        (after_return is not None, Cause.SUCCEEDED_AFTER_RETURN),
        otherwise=Cause.SUCCEEDED,
    )
    facts: dict[str, Fact] = {"after_return": after_return}
    if other is not None:
        facts["contradicted_at"] = Moment(other.at)
    return _Verdict(cause if message.status is Status.SUCCEEDED else _FAILURES[cause], facts)


_FAILURES: Final = {
    Cause.SUCCEEDED: Cause.FAILED,
    Cause.SUCCEEDED_AFTER_RETURN: Cause.FAILED_AFTER_RETURN,
    Cause.SUCCEEDED_BY_ORDER: Cause.FAILED_BY_ORDER,
    Cause.SUCCEEDED_LATE: Cause.FAILED_LATE,
    Cause.SUCCEEDED_UNACKNOWLEDGED: Cause.FAILED_UNACKNOWLEDGED,
    Cause.SUCCEEDED_CONTRADICTED: Cause.FAILED_CONTRADICTED,
}


def _of_timed_out(found: Circumstances, _: LinkState) -> _Verdict:
    message, presence, since = found.message, found.presence, found.not_receiving_since
    unmatched = _unmatched(found)
    did_not_receive = since is not None and EARLIEST < since < (message.reply_by or 0)
    cause = _first(
        (bool(unmatched), Cause.NO_REPLY_UNMATCHED),
        (message.reply is not None, Cause.NO_REPLY_AFTER_PROGRESS),
        (message.subscribers is False, Cause.NO_REPLY_UNSUBSCRIBED),
        (did_not_receive, Cause.NO_REPLY_NOT_RECEIVING),
        (_is_offline(presence) and _is_since(presence, message.reply_by), Cause.NO_REPLY_OFFLINE),
        (_is_online(presence) and _is_since(presence, message.published_at), Cause.NO_REPLY_ONLINE),
        otherwise=Cause.NO_REPLY,
    )
    return _Verdict(cause, unmatched)


def _of_rejected(found: Circumstances, link: LinkState) -> _Verdict:
    message, presence = found.message, found.presence
    cause = _WITH_CODE.get(message.reason or "", Cause.REFUSED)
    match cause:
        case Cause.DEVICE_OFFLINE:
            is_since = _is_offline(presence) and _is_since(presence, message.finished_at)
            return _Verdict(cause, {"offline_since": Clause("offline_since" if is_since else "")})
        case Cause.PRESENCE_UNKNOWN:
            is_unknown = presence is not None and (presence.state is State.UNKNOWN or presence.stale)
            return _Verdict(cause, {"still_unknown": Clause("still_unknown" if is_unknown else "")})
        case Cause.BROKER_UNREACHABLE:
            is_away = not link.up and link.since <= (message.finished_at or 0)
            outage = _outage_at(found, message.finished_at or 0)
            clause = "still_away" if is_away else "" if outage is None else "was_away"
            return _Verdict(cause, {"still_away": Clause(clause)} | _facts_of(outage))
        case _:
            return _Verdict(cause)


def _of_unconfirmed(found: Circumstances, _: LinkState) -> _Verdict:
    return _Verdict(_UNCONFIRMED.get(found.message.reason, Cause.UNCONFIRMED))


def _of_expired(found: Circumstances, link: LinkState) -> _Verdict:
    message = found.message
    expires_at, finished_at = message.expires_at or 0, message.finished_at or 0
    refusals = [each.reason_code for each in found.attempts if each.attempt and each.reason_code is not None]
    spoke = message.created_at <= (found.last_seen or 0) <= expires_at
    blocker, _ = found.held_up_by or ("", "")
    outage = _outage_at(found, expires_at)
    cause = _first(
        (message.possible_duplicate, Cause.EXPIRED_IN_DOUBT),
        (finished_at - expires_at > UNATTENDED_AFTER, Cause.EXPIRED_UNATTENDED),
        (found.pause is not None and found.pause.since <= expires_at, Cause.EXPIRED_PAUSED),
        (refusals[-1:] == [NO_MATCHING_SUBSCRIBERS], Cause.EXPIRED_UNSUBSCRIBED),
        (bool(refusals), Cause.EXPIRED_PUT_OFF),
        (message.condition == Condition.CONTACT and not spoke, Cause.EXPIRED_NO_CONTACT),
        (bool(blocker), Cause.EXPIRED_BEHIND_REPLY),
        (found.held_up_by is not None, Cause.EXPIRED_BEHIND_ANOTHER),
        (not link.up and link.since <= expires_at, Cause.EXPIRED_BROKER_AWAY),
        (outage is not None, Cause.EXPIRED_IN_OUTAGE),
        otherwise=Cause.EXPIRED,
    )
    facts: dict[str, Fact] = {"blocker": blocker, "reason_name": reason_name(refusals[-1]) if refusals else None}
    return _Verdict(cause, facts | _facts_of(outage))


def _of_cancelled(found: Circumstances, _: LinkState) -> _Verdict:
    message, entry = found.message, found.withdrawal
    detail = None if entry is None else entry.detail
    is_superseded = message.reason == Reason.SUPERSEDED
    cause = _first(
        (is_superseded and message.superseded_by is None, Cause.SUPERSEDED_CLEARING),
        (is_superseded, Cause.SUPERSEDED),
        (message.reason == Reason.PURGED, Cause.PURGED),
        (message.reason == Reason.OUTCOME_UNKNOWN, Cause.WITHDRAWN_UNSAVED),
        (detail == KEY_REVOKED, Cause.CANCELLED_WITH_KEY),
        (detail == Reason.HELD, Cause.CANCELLED_HELD),
        otherwise=Cause.CANCELLED,
    )
    return _Verdict(cause)


_VERDICTS: Final[Mapping[Status, Callable[[Circumstances, LinkState], _Verdict]]] = {
    Status.SCHEDULED: _of_scheduled,
    Status.QUEUED: _of_queued,
    Status.PUBLISHING: _of_publishing,
    Status.PUBLISHED: _of_published,
    Status.ACKNOWLEDGED: _of_acknowledged,
    Status.SUCCEEDED: _of_answered,
    Status.FAILED: _of_answered,
    Status.TIMED_OUT: _of_timed_out,
    Status.REJECTED: _of_rejected,
    Status.UNCONFIRMED: _of_unconfirmed,
    Status.EXPIRED: _of_expired,
    Status.CANCELLED: _of_cancelled,
}
"""How the cause is found, by the state; a test holds it to be complete."""
