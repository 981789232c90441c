"""What is asked of the table of messages: the statements that read it, and what their answers look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    union_all,
)

from chapar.model.message import Attempt, Message, Status, first_id
from chapar.model.principal import EVERYWHERE, Reach
from chapar.store.audit import Action
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.schema import COLUMNS, DATABASE_TIME, attempts, audit, messages, processes, to_message

Bucket = Literal["minute", "hour", "day"]

_BUCKET_MS: Mapping[Bucket, int] = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}

TOP = 100
"""How many devices and operations a summary names."""
BUCKETS = 1500
"""How many buckets of time a summary has, the newest ones: more than the minutes of a day."""

WAITING: Final = (Status.SCHEDULED, Status.QUEUED)
"""The states of what waits. A message leaves the first for the second, so who looks for all of them begins there."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which messages are meant: those that fit everything that is given."""

    imei: str | None = None
    micro_op: str | None = None
    status: tuple[Status, ...] = ()  #: any of these; empty: all
    since: int | None = None  #: accepted at this time or later, ms since the epoch
    until: int | None = None  #: accepted before this time, ms since the epoch
    sender: str | None = None  #: the principal that sent it, as the audit trail says
    reach: Reach = EVERYWHERE  #: devices and operations that whoever asks may see


class Position(NamedTuple):
    """Where a message stands in each order that pages may have. What follows can be read once that message is gone."""

    seq: int  #: in the order of acceptance
    id: str


class Page(NamedTuple):
    """Some of the messages that fit."""

    messages: list[Message]
    next: Position | None  #: behind which the next page begins; None: nothing follows


_FIND: Final = select(*COLUMNS).where(messages.c.id == bindparam("of_message"))
_FIND_ALL: Final = select(*COLUMNS).where(messages.c.id.in_(bindparam("ids", expanding=True)))
_LEASE: Final = select(processes.c.token).where(
    processes.c.token == bindparam("process"), processes.c.lease_until > DATABASE_TIME
)
_ATTEMPTS: Final = (
    select(attempts)
    .where(attempts.c.message_id == bindparam("of_message"))
    .order_by(attempts.c.attempt == 0, attempts.c.attempt)
)
_depth: Final = select(messages.c.status, func.count(), func.min(messages.c.seq)).group_by(messages.c.status)
# Two statements, because the index alone answers the first.
_LEAVING: Final = _depth.where(messages.c.status.in_([Status.QUEUED.value, Status.PUBLISHING.value]))
_SCHEDULED: Final = _depth.where(messages.c.status == Status.SCHEDULED.value, messages.c.micro_op != "")
_FRONT: Final = select(*COLUMNS).where(messages.c.seq == bindparam("front"))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The largest groups, and how many messages are in none of them."""

    counts: tuple[tuple[str, int], ...]  #: name and messages, largest first
    others: int  #: messages of the groups that are not named


@dataclass(frozen=True, slots=True)
class Timeline:
    """Messages accepted in each bucket of time; a bucket without any is left out."""

    counts: tuple[tuple[int, int], ...]  #: start (ms since the epoch, UTC) and messages, oldest first
    others: int  #: messages before the first bucket


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the messages that fit the filters."""

    total: int
    statuses: Mapping[Status, int]
    devices: Ranking  #: of the `TOP` devices
    operations: Ranking  #: of the `TOP` operations
    times: Timeline  #: of the newest `BUCKETS` buckets


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is unfinished, on all devices."""

    depths: Mapping[Status, int]  #: messages, by status
    oldest: Message | None  #: the one that was accepted first


def find(connection: Connection, message_id: str) -> Message | None:
    """The message with this id."""
    row = connection.execute(_FIND, {"of_message": message_id}).one_or_none()
    return None if row is None else to_message(tuple(row))


def find_all(connection: Connection, ids: Sequence[str]) -> list[Message]:
    """Those of the messages with these ids that there are."""
    found = connection.execute(_FIND_ALL, {"ids": ids})
    return [to_message(tuple(row)) for row in found]


def is_alive(connection: Connection, process: str) -> bool:
    """Whether a process holds a lease that is not over."""
    return connection.execute(_LEASE, {"process": process}).one_or_none() is not None


def newest_first(connection: Connection, filters: Filters, after: Position | None, limit: int) -> Page:
    """Up to `limit` messages, and `PAGE_BYTES`, newest first, of those accepted before the one at `after`."""
    return _page(connection, filters, after, limit, newest_first=True)


def oldest_first(connection: Connection, filters: Filters, after: Position | None, limit: int) -> Page:
    """Up to `limit` messages, and `PAGE_BYTES`, oldest first, of those accepted after the one at `after`."""
    return _page(connection, filters, after, limit, newest_first=False)


def attempts_of(connection: Connection, message_id: str) -> list[Attempt]:
    """The attempts kept of a message, in their order; last, what took it back from the broker."""
    return [Attempt._make(row) for row in connection.execute(_ATTEMPTS, {"of_message": message_id})]


def backlog(connection: Connection) -> Backlog:
    """How many messages are unfinished, by status, and the one accepted first.

    What waits to clear a retained message at its expiry is not counted: nobody sent it.
    """
    depths: dict[Status, int] = {}
    front: int | None = None
    for counted in (_LEAVING, _SCHEDULED):
        for status, count, first in connection.execute(counted):
            depths[Status(status)] = count
            front = first if front is None else min(front, first)
    if front is None:
        return Backlog(depths, None)
    return Backlog(depths, to_message(tuple(connection.execute(_FRONT, {"front": front}).one())))


def summary(connection: Connection, filters: Filters, bucket: Bucket) -> Summary:
    """Count the messages that fit, all as of one moment."""
    where = _conditions(filters)
    if filters.status:
        where.append(messages.c.status.in_([status.value for status in filters.status]))
    statuses = {
        Status(status): count
        for status, count in connection.execute(
            select(messages.c.status, func.count()).where(*where).group_by(messages.c.status)
        )
    }
    total = sum(statuses.values())
    start = messages.c.created_at - messages.c.created_at % literal_column(str(_BUCKET_MS[bucket]), BigInteger)
    newest = connection.execute(
        select(start, func.count()).where(*where).group_by(start).order_by(start.desc()).limit(BUCKETS)
    )
    times = tuple((int(at), int(count)) for at, count in reversed(newest.all()))
    return Summary(
        total=total,
        statuses=statuses,
        devices=_ranking(connection, messages.c.imei, where, total),
        operations=_ranking(connection, messages.c.micro_op, where, total),
        times=Timeline(times, total - sum(count for _, count in times)),
    )


def _ranking(
    connection: Connection, column: ColumnElement[str], where: list[ColumnElement[bool]], total: int
) -> Ranking:
    largest = connection.execute(
        select(column, func.count()).where(*where).group_by(column).order_by(func.count().desc(), column).limit(TOP)
    )
    counts = tuple((str(name), int(count)) for name, count in largest)
    return Ranking(counts, total - sum(count for _, count in counts))


def _page(connection: Connection, filters: Filters, after: Position | None, limit: int, *, newest_first: bool) -> Page:
    statuses = {status.value: None for status in filters.status}  # each once, in the order given
    by_status = bool(statuses) and filters.imei is None
    # The index by status is in the order of acceptance, the others are in that of ids. The two differ where the clock
    # was stepped, and each is as good for a page.
    place: ColumnElement[Any] = messages.c.seq if by_status else messages.c.id
    # Sizes first, because PostgreSQL's driver holds all that a statement finds. Neither database reads a text for them.
    size = func.octet_length(messages.c.micro_op) + func.coalesce(func.octet_length(messages.c.params), 0)
    fitting = select(messages.c.seq, messages.c.id, size.label("size")).where(*_conditions(filters)).limit(limit + 1)
    if after is not None:
        bound = after.seq if by_status else after.id
        fitting = fitting.where(place < bound if newest_first else place > bound)
    order = place.desc() if newest_first else place.asc()
    fitting = fitting.order_by(order)
    statement: Select[*tuple[Any, ...]] = fitting
    if by_status:
        # One ordered read of the index for each status: with IN, every match would be collected and sorted.
        each = [select(fitting.where(messages.c.status == status).subquery()) for status in statuses]
        merged = union_all(*each).subquery()
        by_place = merged.c.seq.desc() if newest_first else merged.c.seq.asc()
        statement = select(merged).order_by(by_place).limit(limit + 1)
    elif statuses:
        # The empty string keeps a planner without statistics off the index by status: a device has fewer messages.
        statement = fitting.where(messages.c.status.concat("").in_(list(statuses)))
    found = [(Position(seq, id_), octets) for seq, id_, octets in connection.execute(statement)]
    places = [position for position, _ in found[: how_many_fit((octets for _, octets in found), limit)]]
    rows = connection.execute(
        select(*COLUMNS).where(messages.c.seq.in_([position.seq for position in places])).order_by(order)
    )
    return Page([to_message(tuple(row)) for row in rows], places[-1] if len(places) < len(found) else None)


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    """All but the status, which each query asks for in the way that its index serves."""
    conditions: list[ColumnElement[bool]] = []
    if filters.imei is not None:
        conditions.append(messages.c.imei == filters.imei)
    if filters.micro_op is not None:
        conditions.append(messages.c.micro_op == filters.micro_op)
    if filters.since is not None:
        conditions.append(messages.c.id >= first_id(filters.since))
    if filters.until is not None:
        conditions.append(messages.c.id < first_id(filters.until))
    if filters.sender is not None:
        conditions.append(_sent_by(filters.sender))
    conditions += fits_any(messages.c.imei, filters.reach.devices)
    conditions += fits_any(messages.c.micro_op, filters.reach.operations)
    return conditions


def _sent_by(sender: str) -> ColumnElement[bool]:
    return exists().where(
        audit.c.at == messages.c.created_at,  # an entry has the time of its message, and an index by it
        audit.c.subject == messages.c.id,
        audit.c.action == Action.SENT.value,
        audit.c.principal == sender,
    )


def how_many_wait_of(connection: Connection, sender: str) -> int:
    """How many messages wait of those that a principal sent, as the audit trail says."""
    waiting = messages.c.status.in_([status.value for status in WAITING])
    count = select(func.count()).select_from(messages).where(waiting, _sent_by(sender))
    return int(connection.execute(count).scalar_one())
