"""Circumstances of one message: all that the database knows of why it stands where it does, in one read."""

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, case, func, or_, select, text

from chapar.model.audit import Action, AuditFilters, Entry
from chapar.model.device import Pause, Presence
from chapar.model.message import WAITING, Attempt, Message, Status, first_id
from chapar.model.reply import Listed
from chapar.store.audit import newest_first
from chapar.store.devices import pause_of
from chapar.store.lanes import IN_LANE, is_in_lane
from chapar.store.messages import attempts_of, find
from chapar.store.outages import Outage, outages_during
from chapar.store.presences import presences_of
from chapar.store.queue import HELD_UP_TO
from chapar.store.receiving import life_down_since
from chapar.store.replies import replies_of, unmatched_of
from chapar.store.schema import (
    DATABASE_TIME,
    IS_OPEN,
    IS_READY,
    IS_URGENT,
    PROCESS_LENGTH,
    messages,
    processes,
    sightings,
)

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.readers import Readers

MOST_IN_LINE: Final = 10_000  # messages of all devices that are counted in front of one
_MOST_AHEAD: Final = 200  # messages of its device that are read in front of one
_MOST_BEFORE: Final = 50  # earlier messages of its device among which one that held it up is sought
_MOST_UNMATCHED: Final = 5  # replies of its device that belong to no message
_AROUND: Final = 1000  # ms in which the audit trail's entry about an end is sought


class Ahead(NamedTuple):
    """Another unfinished message of the same device, accepted before, or urgent."""

    id: str
    micro_op: str
    status: Status
    reason: str | None
    not_before: int | None  #: ms since the epoch
    reply_by: int | None  #: ms since the epoch
    urgent: bool
    in_lane: bool  #: whether its reply may have to be matched by its order


class Circumstances(NamedTuple):
    """All that the database knows of why a message stands where it does. Times are ms since the epoch."""

    message: Message
    attempts: Sequence[Attempt] = ()  #: that were not the plain first success
    replies: Sequence[Listed] = ()  #: of its device to it
    unmatched: Sequence[Listed] = ()  #: of its device to no message, since it was accepted, newest first
    presence: Presence | None = None  #: None: not for this caller
    last_seen: int | None = None  #: as it is stored, which is every few minutes
    pause: Pause | None = None  #: of its device's queue, where one stands; without who and why for some callers
    not_receiving_since: int | None = None  #: since when nobody receives what devices publish; None: somebody does
    ahead: Sequence[Ahead] = ()  #: in the order of acceptance
    in_line: int = 0  #: messages of all devices that leave before it, up to `MOST_IN_LINE`
    held_up_by: tuple[str, str] | None = None  #: of what expired: id and operation of a message that was not answered
    superseding: Message | None = None  #: the newer message that took its place
    withdrawal: Entry | None = None  #: the audit trail's entry about it
    outages: Sequence[Outage] = ()  #: of the broker, while it waited or was on its way, as gateway processes met them
    is_held: bool = False  #: it waits for its owner since a backup was restored
    sender_lives: bool | None = None  #: whether the process that has it on its way holds its lease; None: none has


class Evidence:
    """Reads the circumstances of messages."""

    def __init__(self, lookups: "Readers") -> None:
        self._lookups = lookups

    async def of_message(self, message_id: str, now: int, *, with_presence: bool) -> Circumstances | None:
        """The circumstances of a message at the time `now`; None where there is none. Raises StoreUnavailable."""
        return await self._lookups.read(
            lambda connection: circumstances(connection, message_id, now, with_presence=with_presence)
        )


_of_device = messages.c.imei == bindparam("imei")
_SEQ = select(messages.c.seq, messages.c.seq <= HELD_UP_TO).where(messages.c.id == bindparam("of_message"))
_in_lane = case((text(IN_LANE), 1), else_=0)


def _ahead_with(status: Status) -> Select[Any]:
    """A device's messages with a status in front of one; the index of what is unfinished has them in their order."""
    return (
        select(
            messages.c.seq,
            messages.c.id,
            messages.c.micro_op,
            messages.c.status,
            messages.c.reason,
            messages.c.not_before,
            messages.c.reply_by,
            messages.c.urgent,
            _in_lane,
        )
        .where(text(IS_OPEN), messages.c.status == status.value, _of_device)
        .where(or_(messages.c.seq < bindparam("behind"), messages.c.urgent))
        .where(messages.c.id != bindparam("of_message"))
        .order_by(messages.c.seq)
        .limit(_MOST_AHEAD)
    )


_AHEAD: Final = [
    _ahead_with(status) for status in (Status.QUEUED, Status.PUBLISHING, Status.PUBLISHED, Status.ACKNOWLEDGED)
]


def _counted(condition: str, *more: ColumnElement[bool]) -> Select[Any]:
    some = select(messages.c.seq).where(text(condition), *more).limit(MOST_IN_LINE)
    return select(func.count()).select_from(some.subquery())


_is_before = messages.c.seq < bindparam("behind")
_BEFORE_URGENT = (_counted(IS_URGENT, _is_before),)
_BEFORE_PLAIN = (_counted(IS_READY, _is_before), _counted(IS_URGENT))
_BEFORE = (
    select(messages.c.id, messages.c.micro_op, messages.c.finished_at, _in_lane, messages.c.attempts)
    .where(_of_device, messages.c.id < bindparam("of_message"), messages.c.id > bindparam("earliest"))
    .order_by(messages.c.imei.desc(), messages.c.id.desc())
    .limit(_MOST_BEFORE)
)
_LEASE = select(processes.c.token).where(
    processes.c.token == bindparam("process"), processes.c.lease_until > DATABASE_TIME
)
_SEEN = select(sightings.c.at).where(sightings.c.imei == bindparam("imei"))
_DAY: Final = 86_400_000  # ms
_first_of = itemgetter(0)


def circumstances(connection: Connection, message_id: str, now: int, *, with_presence: bool) -> Circumstances | None:
    """The circumstances of a message at the time `now`; None where there is none."""
    message = find(connection, message_id)
    if message is None:
        return None
    seq, is_held = connection.execute(_SEQ, {"of_message": message_id}).one()
    found = Circumstances(
        message,
        attempts=attempts_of(connection, message_id),
        replies=replies_of(connection, message_id) if message.reply is not None else (),
        unmatched=unmatched_of(connection, message.imei, message.created_at, _MOST_UNMATCHED),
        not_receiving_since=life_down_since(connection, now),
        superseding=None if message.superseded_by is None else find(connection, message.superseded_by),
        is_held=bool(is_held) and message.status in WAITING,
        outages=outages_during(
            connection, message.deliver_at or message.created_at, message.published_at or message.finished_at or now
        ),
    )
    pause = pause_of(connection, message.imei)
    found = found._replace(pause=pause if pause is None or with_presence else Pause(pause.since, "", None))
    if with_presence:
        found = found._replace(
            presence=presences_of(connection, [message.imei], now)[message.imei],
            last_seen=connection.execute(_SEEN, {"imei": message.imei}).scalar(),
        )
    match message.status:
        case Status.QUEUED:
            place = {"imei": message.imei, "behind": seq, "of_message": message.id}
            ahead = [row for statement in _AHEAD for row in connection.execute(statement, place)]
            counts = _BEFORE_URGENT if message.urgent else _BEFORE_PLAIN
            in_line = sum(connection.execute(count, {"behind": seq}).scalar_one() for count in counts)
            return found._replace(ahead=_ahead(ahead), in_line=min(in_line, MOST_IN_LINE))
        case Status.PUBLISHING:
            process = (message.claim or "")[:PROCESS_LENGTH]
            return found._replace(sender_lives=connection.execute(_LEASE, {"process": process}).first() is not None)
        case Status.EXPIRED:
            return found._replace(held_up_by=_held_up_by(connection, message))
        case Status.CANCELLED:
            return found._replace(withdrawal=_withdrawal(connection, message))
        case _:
            return found


def _ahead(rows: Sequence[Row[Any]]) -> Sequence[Ahead]:
    in_order = sorted((tuple(row) for row in rows), key=_first_of)
    return [
        Ahead(id_, micro_op, Status(status), reason, not_before, reply_by, bool(urgent), bool(in_lane))
        for _, id_, micro_op, status, reason, not_before, reply_by, urgent, in_lane in in_order
    ]


def _held_up_by(connection: Connection, message: Message) -> tuple[str, str] | None:
    """An earlier message of the lane that its device had yet to answer when this one's time ran out."""
    if not is_in_lane(message):
        return None
    bounds = {"imei": message.imei, "of_message": message.id, "earliest": first_id(message.created_at - _DAY)}
    ended = message.finished_at or 0
    for id_, micro_op, finished_at, in_lane, attempts in connection.execute(_BEFORE, bounds):
        if in_lane and attempts and (finished_at is None or finished_at >= ended):
            return str(id_), str(micro_op)
    return None


def _withdrawal(connection: Connection, message: Message) -> Entry | None:
    at = message.finished_at or 0
    filters = AuditFilters(action=Action.CANCELLED, subject=message.id, since=at - _AROUND, until=at + _AROUND)
    return next((entry for _, entry in newest_first(connection, filters, None, 1).entries), None)
