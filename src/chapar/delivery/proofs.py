"""Proofs: the list of evidence behind an explanation. No I/O."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from chapar.delivery.explanation import NOTHING, Facts, Length, Moment
from chapar.delivery.verdicts import EARLIEST, LinkState
from chapar.model.message import OWED, UNFINISHED, WAITING, Message, Status
from chapar.store.circumstances import Circumstances

STEPPED: Final = 1000
"""Milliseconds between the system's clock and the gateway's beyond which the system's was stepped."""

_MOST_BLOCKERS: Final = 5  # messages in front that are shown


class Kind(StrEnum):
    """A kind of evidence."""

    ACCEPTED = "accepted"  #: The message was accepted.
    DUE = "due"  #: It is, or was, not sent before.
    EXPIRY = "expiry"  #: It is, or was, not sent at or after.
    RETRY = "retry"  #: The next attempt is not made before.
    ATTEMPT = "attempt"  #: An attempt that was not the plain first success.
    PUBLISHED = "published"  #: The broker acknowledged it.
    REPLY_DUE = "reply_due"  #: Until when a reply is, or was, awaited.
    REPLY = "reply"  #: Its device replied to it.
    UNMATCHED_REPLY = "unmatched_reply"  #: Its device published a reply that belongs to no message.
    FINISHED = "finished"  #: It ended, or its reply was given up.
    SUPERSEDING = "superseding"  #: A newer message took its place.
    WITHDRAWAL = "withdrawal"  #: The audit trail's entry about it.
    PRESENCE = "presence"  #: Its device is, since then, online or offline.
    SEEN = "seen"  #: Its device last said something, as it is stored every few minutes.
    PAUSE = "pause"  #: The queue of its device is paused since then.
    NOT_RECEIVING = "not_receiving"  #: Nothing that devices publish is received since then.
    LINK = "link"  #: The session of this gateway process with the broker began or ended.
    OUTAGE = "outage"  #: A gateway process had no session with the broker from then on.
    SENDER = "sender"  #: The gateway process that has it on its way.
    BLOCKER = "blocker"  #: Another message of its device is before it.
    QUEUE = "queue"  #: How many messages are before it.
    HELD = "held"  #: It is held since a backup was restored.
    CLOCK = "clock"  #: The system's clock was stepped; the gateway keeps its own time.
    CATALOG = "catalog"  #: What the catalog, as it is now, says of its operation and its parameters.
    REACH = "reach"  #: Devices and operations to which the caller is limited: what is beyond them is not shown.


class Proof(NamedTuple):
    """One piece of evidence."""

    kind: Kind
    at: int | None  #: when it happened or happens, ms since the epoch; None: it has no time
    facts: Facts = NOTHING


def proofs(found: Circumstances, link: LinkState, now: int, drift: int, *further: Proof) -> list[Proof]:
    """The evidence of an explanation in the order of time.

    `drift`: ms by which the system's clock is ahead of ours. `further`: of what is no circumstance of the message.
    """
    every = [*_of_message(found), *_of_device(found), *_of_gateway(found, link, now, drift), *further]
    return sorted(every, key=lambda proof: now if proof.at is None else proof.at)


def _of_message(found: Circumstances) -> Iterator[Proof]:
    message = found.message
    yield Proof(Kind.ACCEPTED, message.created_at)
    times = {
        Kind.DUE: message.deliver_at,
        Kind.EXPIRY: message.expires_at,
        Kind.RETRY: message.not_before,
        Kind.REPLY_DUE: message.reply_by,
    }
    yield from (Proof(kind, at) for kind, at in times.items() if at is not None)
    for attempt in found.attempts:
        yield Proof(
            Kind.ATTEMPT,
            attempt.at,
            {"attempt": attempt.attempt, "outcome": attempt.outcome, "reason_code": attempt.reason_code},
        )
    if message.published_at is not None:
        yield Proof(
            Kind.PUBLISHED,
            message.published_at,
            {"subscribers": message.subscribers, "reason_code": message.reason_code},
        )
    if message.finished_at is not None:
        yield Proof(Kind.FINISHED, message.finished_at, {"status": message.status.value, "reason": message.reason})
    if (newer := found.superseding) is not None:
        yield Proof(Kind.SUPERSEDING, newer.created_at, {"id": newer.id})
    if (entry := found.withdrawal) is not None:
        yield Proof(Kind.WITHDRAWAL, entry.at, {"action": entry.action, "detail": entry.detail})


def _of_device(found: Circumstances) -> Iterator[Proof]:
    for listed in found.replies:
        reply = listed.reply
        yield Proof(
            Kind.REPLY,
            reply.at,
            {
                "status": None if reply.status is None else reply.status.value,
                "word": reply.word or None,
                "matched_by": None if reply.matched_by is None else reply.matched_by.value,
                "stands": listed.seq == 0,
            },
        )
    for listed in found.unmatched:
        why = None if listed.reason is None else listed.reason.value
        yield Proof(Kind.UNMATCHED_REPLY, listed.reply.at, {"reason": why, "word": listed.reply.word or None})
    if (presence := found.presence) is not None:
        ground = None if presence.evidence is None else presence.evidence.value
        facts = {"state": presence.state.value, "ground": ground, "stale": presence.stale}
        yield Proof(Kind.PRESENCE, presence.since, facts)
    if found.last_seen is not None:
        yield Proof(Kind.SEEN, found.last_seen)
    if (pause := found.pause) is not None:
        yield Proof(Kind.PAUSE, pause.since, {"by": pause.by or None, "reason": pause.note})


def _of_gateway(found: Circumstances, link: LinkState, now: int, drift: int) -> Iterator[Proof]:
    message = found.message
    if found.not_receiving_since is not None and message.status in OWED | {Status.TIMED_OUT}:
        is_known = found.not_receiving_since > EARLIEST
        yield Proof(Kind.NOT_RECEIVING, found.not_receiving_since if is_known else None)
    if message.status in UNFINISHED or _ended_since(message, link.since):
        trouble = link.trouble
        yield Proof(Kind.LINK, link.since, {"up": link.up, "broker": link.broker, "error": trouble})
    for outage in found.outages:
        facts: Facts = {"until": Moment(outage.ended_at), "cause": outage.cause, "process": outage.process}
        yield Proof(Kind.OUTAGE, outage.began_at, facts)
    if found.sender_lives is not None:
        yield Proof(
            Kind.SENDER, None, {"process": (message.claim or "").partition(".")[0], "alive": found.sender_lives}
        )
    if message.status is Status.QUEUED:
        for ahead in found.ahead[:_MOST_BLOCKERS]:
            yield Proof(
                Kind.BLOCKER,
                ahead.not_before or ahead.reply_by,
                {"id": ahead.id or None, "status": ahead.status.value, "reason": ahead.reason},
            )
        yield Proof(Kind.QUEUE, None, {"of_device": len(found.ahead), "in_all": found.in_line})
    if found.is_held and message.status in WAITING:
        yield Proof(Kind.HELD, None)
    if abs(drift) > STEPPED:
        yield Proof(Kind.CLOCK, now, {"ahead_by": Length(drift)})


def _ended_since(message: Message, at: int) -> bool:
    return message.finished_at is not None and at <= message.finished_at
