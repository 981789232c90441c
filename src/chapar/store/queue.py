"""The dispatcher's operations: take what is due, withdraw, hold a lease, and settle what a dead process left."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.message import Attempt, Status
from chapar.store.audit import Entry, add_entries
from chapar.store.operations import Kind, keep_attempts
from chapar.store.retained import supersede
from chapar.store.schema import COLUMNS, DATABASE_TIME, PROCESS_LENGTH, Row, messages, processes

_AT: ColumnElement[int] = bindparam("at", type_=BigInteger)
_PROCESS = func.substr(messages.c.claim, 1, PROCESS_LENGTH)

_ONE_TAKER = 0x63686170  # the advisory lock under which PostgreSQL lets one process at a time take messages

# What time does: what is too late expires; what was scheduled or put off joins the queue. Nothing but `wake_at` is
# asked for, so that its index is what every planner takes.
_too_late = and_(messages.c.expires_at.is_not(None), messages.c.expires_at <= _AT)
_WAKE = (
    update(messages)
    .where(messages.c.wake_at <= _AT)
    .values(
        status=case((_too_late, Status.EXPIRED.value), else_=Status.QUEUED.value),
        reason=case((_too_late, "expired"), else_=messages.c.reason),
        finished_at=case((_too_late, _AT), else_=messages.c.finished_at),
        not_before=None,
    )
    .returning(messages.c.id, messages.c.status)
)
_NEXT = select(func.min(messages.c.wake_at)).where(messages.c.wake_at.is_not(None))

# It stands in the statement as a number: where LIMIT has a parameter, SQLite plans anew at each execution.
_limit = bindparam("limit", type_=Integer, literal_execute=True)

# A device whose front message was put off, or is in another process's hands, keeps what is behind it. So does one that
# has a whole page on its way: answered late, it must not fill all that a process may have taken.
_put_off = select(messages.c.imei, messages.c.seq).where(messages.c.not_before.is_not(None)).cte("put_off")
_is_elsewhere = case((_PROCESS.is_distinct_from(bindparam("process")), 1), else_=0)
_busy = (
    select(messages.c.imei)
    .where(messages.c.status == Status.PUBLISHING.value)
    .group_by(messages.c.imei)
    .having(or_(func.max(_is_elsewhere) == 1, func.count() >= _limit))
    .cte("busy")
)
_picked = (  # a CTE, because PostgreSQL may run a plain subquery with LIMIT more than once
    select(messages.c.seq)
    .where(
        messages.c.status == Status.QUEUED.value,
        ~exists().where(_put_off.c.imei == messages.c.imei, _put_off.c.seq <= messages.c.seq),
        messages.c.imei.not_in(select(_busy.c.imei)),
    )
    .order_by(messages.c.seq)
    .limit(_limit)
    .with_for_update(skip_locked=True, of=messages)
    .cte("picked")
)
_TAKE = (
    update(messages)
    .where(messages.c.seq.in_(select(_picked.c.seq)))
    .values(status=Status.PUBLISHING.value, attempts=messages.c.attempts + 1, claim=bindparam("taker"))
)
_TAKEN = (
    select(*COLUMNS)
    .where(messages.c.status == Status.PUBLISHING.value, messages.c.claim == bindparam("taker"))
    .order_by(messages.c.seq)
)

_CANCEL = (
    update(messages)
    .where(
        messages.c.id == bindparam("of_message"),
        messages.c.status.in_([Status.SCHEDULED.value, Status.QUEUED.value]),
    )
    .values(status=Status.CANCELLED.value, reason="cancelled", not_before=None, finished_at=_AT)
)
_STATUS = select(messages.c.status).where(messages.c.id == bindparam("of_message"))

_until = DATABASE_TIME + bindparam("lasts", type_=BigInteger)
_HOLD = {
    "postgresql": postgresql.insert(processes)
    .values(lease_until=_until)
    .on_conflict_do_update(index_elements=["token"], set_={"lease_until": _until}),
    "sqlite": sqlite.insert(processes)
    .values(lease_until=_until)
    .on_conflict_do_update(index_elements=["token"], set_={"lease_until": _until}),
}
_LEAVE = delete(processes).where(processes.c.token == bindparam("process"))
_FORGET_OTHERS = delete(processes).where(processes.c.token != bindparam("process"))

_alive = select(processes.c.token).where(processes.c.lease_until > DATABASE_TIME)
_left_behind = and_(
    messages.c.status == Status.PUBLISHING.value,
    or_(
        messages.c.claim.is_(None),
        and_(_PROCESS.is_distinct_from(bindparam("process")), _PROCESS.not_in(_alive)),
    ),
)
_OWNERS = select(_PROCESS).where(_left_behind).distinct()
_once = messages.c.at_most_once.is_(True)
_TAKE_OVER = (
    update(messages)
    .where(_left_behind, _PROCESS.is_not_distinct_from(bindparam("owner")))
    .values(
        status=case((_once, Status.UNCONFIRMED.value), else_=Status.QUEUED.value),
        reason=case((_once, "process_died"), else_=messages.c.reason),
        possible_duplicate=case((_once, messages.c.possible_duplicate), else_=true()),
        claim=None,
        finished_at=case((_once, _AT), else_=messages.c.finished_at),
    )
    .returning(messages.c.id, messages.c.attempts)
)


Found = tuple[list[Row], list[str], int | None, list[str]]
"""What a TAKE found: the rows taken, the ids of what expired, when there is something to do next, and the ids of the
clearings that something newer has superseded."""


class Take(NamedTuple):
    """The arguments of a TAKE."""

    claim: str  #: must be new each time: it is how a repeated TAKE finds what it took
    limit: int
    at: int  #: the time, ms since the epoch


def _take(connection: Connection, takes: Sequence[Take]) -> Sequence[Found]:
    return [_take_one(connection, take) for take in takes]


def _take_one(connection: Connection, take: Take) -> Found:
    now = {"at": take.at}
    woken = connection.execute(_WAKE, now).all()
    expired = [str(id_) for id_, status in woken if status == Status.EXPIRED]
    superseded: list[str] = []
    taken = _of_claim(connection, take.claim)  # of a TAKE that was committed, and its answer lost
    if not taken and take.limit:
        if connection.dialect.name == "postgresql":
            # Order per device: two processes must not split one device's messages between them.
            connection.execute(select(func.pg_advisory_xact_lock(_ONE_TAKER)))
        found = connection.execute(
            _TAKE, {"taker": take.claim, "process": take.claim[:PROCESS_LENGTH], "limit": take.limit}
        )
        taken = _of_claim(connection, take.claim) if found.rowcount else []
        taken, superseded = supersede(connection, taken, take.at)
    return taken, expired, connection.execute(_NEXT).scalar_one(), superseded


def _of_claim(connection: Connection, claim: str) -> list[Row]:
    return [tuple(row) for row in connection.execute(_TAKEN, {"taker": claim})]


def _cancel(connection: Connection, cancels: Sequence[Entry]) -> Sequence[tuple[bool, str | None]]:
    """Whether each was withdrawn by this, and its status now; None where there is no such message."""
    results = []
    for entry in cancels:
        message_id = entry.subject
        won = connection.execute(_CANCEL, {"of_message": message_id, "at": entry.at}).rowcount == 1
        add_entries(connection, [entry] if won else [])
        results.append((won, connection.execute(_STATUS, {"of_message": message_id}).scalar_one_or_none()))
    return results


class Lease(NamedTuple):
    """The arguments of a HOLD."""

    process: str  #: token
    name: str  #: of the process, for people
    seconds: float  #: how long the lease is from now on
    alone: bool  #: no other process can be alive: this one holds the database's lock


def _hold(connection: Connection, leases: Sequence[Lease]) -> Sequence[None]:
    for lease in leases:
        if lease.alone:
            connection.execute(_FORGET_OTHERS, {"process": lease.process})
        held = {"token": lease.process, "name": lease.name, "lasts": round(lease.seconds * 1000)}
        connection.execute(_HOLD[connection.dialect.name], held)
    return [None] * len(leases)


def _leave(connection: Connection, left: Sequence[str]) -> Sequence[None]:
    connection.execute(_LEAVE, [{"process": process} for process in left])
    return [None] * len(left)


def _settle(connection: Connection, settles: Sequence[tuple[str, int]]) -> Sequence[int]:
    """How many messages were in the hands of processes that are dead: no lease, or one that is over."""
    return [_settle_one(connection, process, at) for process, at in settles]


def _settle_one(connection: Connection, process: str, at: int) -> int:
    owners = connection.scalars(_OWNERS, {"process": process}).all()
    return sum(_take_over(connection, process, owner, at) for owner in owners)


def _take_over(connection: Connection, process: str, owner: str | None, at: int) -> int:
    """Settle what one dead process left; gives how many messages those were.

    In one statement: a lease may end, and the dead process's writer commit its last batch, between any two.
    """
    settled = connection.execute(_TAKE_OVER, {"process": process, "owner": owner, "at": at}).all()
    if settled:
        keep_attempts(connection, [Attempt(id_, n, at, owner or "", "process_died", None) for id_, n in settled])
    return len(settled)


TAKE: Kind[Take, Found] = Kind("take", 7, _take)
CANCEL: Kind[Entry, tuple[bool, str | None]] = Kind("cancel", 1, _cancel)
HOLD: Kind[Lease, None] = Kind("hold", 2, _hold)
LEAVE: Kind[str, None] = Kind("leave", 3, _leave)
SETTLE: Kind[tuple[str, int], int] = Kind("settle", 2, _settle)
