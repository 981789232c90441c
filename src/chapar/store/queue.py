"""The dispatcher's operations: take what is queued, and settle what a dead process left."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, func, select, update

from chapar.message import Status
from chapar.store.operations import Kind
from chapar.store.schema import COLUMNS, Row, messages

# A CTE, because PostgreSQL may run a plain subquery with LIMIT more than once.
_PICKED = (
    select(messages.c.seq)
    .where(messages.c.status == Status.QUEUED.value)
    .order_by(messages.c.seq)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    .cte("picked")
)
_TAKE = (
    update(messages)
    .where(messages.c.seq.in_(select(_PICKED.c.seq)))
    .values(status=Status.PUBLISHING.value, attempts=messages.c.attempts + 1, claim=bindparam("taker"))
)
_TAKEN = (
    select(*COLUMNS)
    .where(messages.c.status == Status.PUBLISHING.value, messages.c.claim == bindparam("taker"))
    .order_by(messages.c.seq)
)

_LEFT_BEHIND = and_(
    messages.c.status == Status.PUBLISHING.value,
    func.substr(func.coalesce(messages.c.claim, ""), 1, func.length(bindparam("process"))) != bindparam("process"),
)
_UNCONFIRMED = (
    update(messages)
    .where(_LEFT_BEHIND, messages.c.at_most_once.is_(True))
    .values(status=Status.UNCONFIRMED.value, reason="process_died", claim=None, finished_at=bindparam("at"))
)
_QUEUED_AGAIN = (
    update(messages).where(_LEFT_BEHIND).values(status=Status.QUEUED.value, possible_duplicate=True, claim=None)
)


def claim_row(claim: str, limit: int) -> Row:
    """The arguments of a CLAIM. `claim` must be new each time: it is how a repeated CLAIM finds what it took."""
    return (claim, limit)


def settle_row(process: str, at: int) -> Row:
    """The arguments of a SETTLE: what every claim of this process begins with, and the time in ms."""
    return (process, at)


def _claim(connection: Connection, rows: Sequence[Row]) -> Sequence[list[Row]]:
    return [_take(connection, taker, limit) for taker, limit in rows]


def _take(connection: Connection, taker: object, limit: object) -> list[Row]:
    taken = [tuple(row) for row in connection.execute(_TAKEN, {"taker": taker})]
    if taken:  # this CLAIM was committed before, and its answer was lost
        return taken
    if connection.execute(_TAKE, {"taker": taker, "limit": limit}).rowcount == 0:
        return []
    return [tuple(row) for row in connection.execute(_TAKEN, {"taker": taker})]


def _settle(connection: Connection, rows: Sequence[Row]) -> Sequence[int]:
    return [
        connection.execute(_UNCONFIRMED, {"process": process, "at": at}).rowcount
        + connection.execute(_QUEUED_AGAIN, {"process": process}).rowcount
        for process, at in rows
    ]


CLAIM = Kind("claim", _claim)
SETTLE = Kind("settle", _settle)
