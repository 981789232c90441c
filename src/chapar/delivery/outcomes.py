"""Outcomes of attempts: from a message, and what the link said of it, to where the message stands next. No I/O."""

from collections.abc import Mapping
from typing import Final, NamedTuple, Unpack, assert_never
from zlib import crc32

from chapar.errors import (
    BrokerRefused,
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
    QueuePaused,
    TakenBack,
)
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, TRANSIENT, reason_name, reason_slug
from chapar.model.message import ANSWERED, FINAL_WORDS, Attempt, Condition, Message, MutableFields, Status, Wait
from chapar.model.reason import Reason

MAX_ATTEMPTS: Final = 8  # of a message that the broker keeps putting off; the last comes two minutes after the first

_LATER = 1_000  # ms until a message is tried again that was not to be tried now
_FIRST_BACKOFF = 1_000  # ms until a message that the broker put off is tried again; doubles …
_LONGEST_BACKOFF = 60_000  # … up to this
_SUBSCRIBES_WITHIN = 2_000  # ms that a device that spoke may take to subscribe, beyond the delay of a contact


class Facts(NamedTuple):
    """The facts that an outcome depends on, beside what the link said."""

    now: int  #: ms since the epoch
    process: str  #: token of the process that made the attempt
    reports_subscribers: bool  #: whether 0x00 from this broker means that somebody was subscribed


Said = int | LinkDown | LinkLost | PublicationExpired | PublicationInvalid | TakenBack
"""What the link says of a publication: the reason code of the broker's answer, or why there is none."""


class Outcome(NamedTuple):
    """The result of an attempt: the message's next state, and what is recorded."""

    message: Message  #: as it stands next
    attempts: tuple[Attempt, ...] = ()  #: what is kept of its history with that


def outcome(message: Message, said: Said, facts: Facts, *, may_queue: bool) -> Outcome:
    """Return what comes of an attempt of which the link `said` this.

    `may_queue`: whether the message waits in the queue where the broker cannot take it now; else it is rejected.
    """
    match said:
        case int():
            return _answered(message, said, facts, may_queue=may_queue)
        case LinkDown():
            return unsent(message, facts, may_queue=may_queue)
        case TakenBack():
            return put_aside(message, facts)
        case LinkLost():
            return in_doubt(message, said, facts)
        case PublicationExpired():
            return _too_late(message, facts)
        case PublicationInvalid():
            return _impossible(message, said.reason_code, facts)
        case never:
            assert_never(never)


def not_now(message: Message, facts: Facts) -> Outcome:
    """It would have to wait, and is sent only where its device is online, so it never does.

    A second attempt waits: the first may have arrived.
    """
    if message.possible_duplicate:
        return put_aside(message, facts)
    reason, attempts = Reason.DEVICE_BUSY, message.attempts - 1
    return Outcome(_ended(message, Status.REJECTED, facts, reason=reason, attempts=attempts))


def given_back(message: Message, not_before: int | None = None) -> Outcome:
    """It was not tried: it waits where it came from, and not to be tried before a time (ms since the epoch)."""
    attempts = message.attempts - 1
    return Outcome(message.moved(Status.QUEUED, attempts=attempts, claim=None, not_before=not_before))


def put_aside(message: Message, facts: Facts) -> Outcome:
    """It is not to be tried now, nor for a while."""
    return given_back(message, facts.now + _LATER)


def unsent(message: Message, facts: Facts, *, may_queue: bool) -> Outcome:
    """Nothing of it left, so the attempt does not count."""
    if may_queue:
        return given_back(message)
    reason, attempts = Reason.BROKER_UNREACHABLE, message.attempts - 1
    return Outcome(_ended(message, Status.REJECTED, facts, reason=reason, attempts=attempts))


def in_doubt(message: Message, lost: LinkLost, facts: Facts) -> Outcome:
    """It left, and nobody knows what came of it."""
    kept = (attempt(message, Reason.LINK_LOST.value, getattr(lost.cause, "reason_code", None), facts),)
    if message.at_most_once:
        return Outcome(_ended(message, Status.UNCONFIRMED, facts, reason=Reason.LINK_LOST), kept)
    return Outcome(message.moved(Status.QUEUED, possible_duplicate=True, claim=None), kept)


def refused(message: Message, reason_code: int, facts: Facts) -> Outcome:
    """The broker does not take it, now and later."""
    slug = reason_slug(reason_code)
    after = _ended(message, Status.REJECTED, facts, reason=slug, reason_code=reason_code)
    return Outcome(after, (attempt(message, slug, reason_code, facts),))


def quarantined(message: Message, reason_code: int | None, facts: Facts) -> Outcome:
    """It is taken for the cause of what went wrong whenever it was in flight, so it is not tried any more."""
    reason, attempts = Reason.QUARANTINED, message.attempts - 1
    return Outcome(_ended(message, Status.REJECTED, facts, reason=reason, attempts=attempts, reason_code=reason_code))


def faulty(message: Message, facts: Facts, *, may_have_left: bool) -> Outcome:
    """A fault of ours, such as a text that cannot be encoded, ended the attempt.

    What may have left is sent again once and not more often: the same fault may await every attempt.
    """
    reason = Reason.INTERNAL_ERROR
    kept = (attempt(message, reason.value, None, facts),)
    if not may_have_left:
        return Outcome(_ended(message, Status.REJECTED, facts, reason=reason, attempts=message.attempts - 1), kept)
    if message.at_most_once or message.possible_duplicate:
        return Outcome(_ended(message, Status.UNCONFIRMED, facts, reason=reason), kept)
    return Outcome(message.moved(Status.QUEUED, possible_duplicate=True, claim=None), kept)


def not_sent(message: Message) -> NotSent | None:
    """Return why a message was not sent and never will be; None unless that is certain."""
    if message.possible_duplicate:
        return None
    match message.status:
        case Status.REJECTED:
            return _rejection(message)
        case Status.EXPIRED:
            return MessageExpired(message.id)
        case Status.CANCELLED:
            return _CANCELLATIONS.get(message.reason, MessageCancelled)(message.id)
        case _:
            return None


def is_proven(message: Message, wait: Wait) -> bool:
    """Return whether what a caller waits for is committed: the device's final word, else that the broker has it.

    A device that replies before the broker's acknowledgement is committed proves that the broker had the message.
    """
    return message.status in (FINAL_WORDS if wait is Wait.DEVICE else _HAD_BY_BROKER)


_HAD_BY_BROKER: Final = frozenset({Status.PUBLISHED, Status.TIMED_OUT}) | ANSWERED


_CANCELLATIONS: Final[Mapping[str | None, type[NotSent]]] = {
    Reason.SUPERSEDED.value: MessageSuperseded,
    Reason.PURGED.value: MessagePurged,
}
_REJECTIONS: Final[Mapping[str | None, type[NotSent]]] = {
    Reason.QUARANTINED.value: Quarantined,
    Reason.INTERNAL_ERROR.value: DeliveryFaulty,
    Reason.DEVICE_OFFLINE.value: DeviceOffline,
    Reason.PRESENCE_UNKNOWN.value: PresenceUnknown,
    Reason.DEVICE_BUSY.value: DeviceBusy,
    Reason.PAUSED.value: QueuePaused,
}


def _rejection(message: Message) -> NotSent:
    if (error := _REJECTIONS.get(message.reason)) is not None:
        return error(message.id)
    if message.reason_code is None:
        return BrokerUnreachable(message.id)
    return BrokerRefused(message.id, reason_name(message.reason_code), message.reason_code)


def attempt(message: Message, said: str, reason_code: int | None, facts: Facts) -> Attempt:
    """An attempt to be kept, because it was not the plain first success."""
    return Attempt(message.id, message.attempts, facts.now, facts.process, said, reason_code)


def _answered(message: Message, reason_code: int, facts: Facts, *, may_queue: bool) -> Outcome:
    if reason_code >= FIRST_FAILURE:
        if reason_code in TRANSIENT and message.attempts < MAX_ATTEMPTS and may_queue:
            return _put_off(message, reason_code, facts)
        return refused(message, reason_code, facts)
    if reason_code == NO_MATCHING_SUBSCRIBERS and message.condition == Condition.CONTACT:
        return _not_there(message, facts)
    if message.qos == 0:  # there was no PUBACK: it left, and that is all anybody knows
        return Outcome(_ended(message, Status.UNCONFIRMED, facts, reason=Reason.QOS_0))
    reply_by = None if message.reply_within is None else facts.now + message.reply_within
    return Outcome(
        message.moved(
            Status.PUBLISHED,
            reason=None,
            claim=None,
            reason_code=reason_code,
            subscribers=False if reason_code == NO_MATCHING_SUBSCRIBERS else facts.reports_subscribers or None,
            published_at=facts.now,
            reply_by=reply_by,
            finished_at=facts.now if reply_by is None else None,
        ),
        _success(message, reason_code, facts) if message.attempts > 1 or message.clears else (),
    )


def _success(message: Message, reason_code: int, facts: Facts) -> tuple[Attempt, ...]:
    """Return what is kept of a success: that it was not the first attempt, and what it made the broker forget."""
    kept = (attempt(message, Status.PUBLISHED.value, reason_code, facts),) if message.attempts > 1 else ()
    if not message.clears or message.origin is None:
        return kept
    return (*kept, Attempt(message.origin, 0, facts.now, facts.process, "retained_cleared", reason_code))


def _put_off(message: Message, reason_code: int, facts: Facts) -> Outcome:
    """The broker may take it later: it waits in the queue, and what is behind it on its device waits too."""
    backoff = min(_FIRST_BACKOFF << (message.attempts - 1), _LONGEST_BACKOFF)
    not_before = facts.now + round(backoff * (0.5 + _spread(message) / 2))
    after = message.moved(Status.QUEUED, claim=None, not_before=not_before)
    return Outcome(after, (attempt(message, reason_slug(reason_code), reason_code, facts),))


def _not_there(message: Message, facts: Facts) -> Outcome:
    """Nobody is subscribed, though its device spoke: tried once more in the window, then it waits for the next contact.

    Nobody had it, so it is sent again without doubt. The reason code in its row says that it was tried once.
    """
    again = facts.now + _SUBSCRIBES_WITHIN
    is_first = message.reason_code != NO_MATCHING_SUBSCRIBERS
    not_before = again if is_first and message.contact_until is not None and again < message.contact_until else None
    after = message.moved(
        Status.QUEUED,
        reason=Reason.WAITING_FOR_CONTACT.value,
        reason_code=NO_MATCHING_SUBSCRIBERS,
        claim=None,
        not_before=not_before,
    )
    return Outcome(after, (attempt(message, reason_slug(NO_MATCHING_SUBSCRIBERS), NO_MATCHING_SUBSCRIBERS, facts),))


def _too_late(message: Message, facts: Facts) -> Outcome:
    """Nothing of it left in its time; where that is the window of a contact alone, it waits for the next contact.

    The link's deadlines are in the loop's time, which stands still for as long as a turn of the loop takes. So it may
    give a message up some milliseconds too soon; the message then waits in the queue for its end.
    """
    if (ends_at := message.leaves_before) is not None and facts.now < ends_at:
        return given_back(message, ends_at)
    is_over = message.expires_at is not None and message.expires_at <= (message.contact_until or message.expires_at)
    if message.contact_until is None or is_over:
        return Outcome(_ended(message, Status.EXPIRED, facts, reason=Reason.EXPIRED, attempts=message.attempts - 1))
    after = message.moved(
        Status.QUEUED,
        reason=Reason.WAITING_FOR_CONTACT.value,
        reason_code=None,
        attempts=message.attempts - 1,
        claim=None,
        contact_until=None,
    )
    return Outcome(after)


def _spread(message: Message) -> float:
    """Between 0 and 1, so that what was put off together does not come back together; another for each attempt."""
    return crc32(f"{message.id}.{message.attempts}".encode()) / 0xFFFF_FFFF


def _impossible(message: Message, reason_code: int, facts: Facts) -> Outcome:
    """The broker's announced limits forbid it, so it was not tried."""
    slug, attempts = reason_slug(reason_code), message.attempts - 1
    return Outcome(_ended(message, Status.REJECTED, facts, reason=slug, attempts=attempts, reason_code=reason_code))


def _ended(message: Message, status: Status, facts: Facts, **changes: Unpack[MutableFields]) -> Message:
    """The message in a final state, with these changes: no process claims it any longer."""
    changes["reason"] = (reason := changes.get("reason")) and str(reason)  # plain, as every row has it
    changes["claim"] = None
    changes["finished_at"] = facts.now
    return message.moved(status, **changes)
