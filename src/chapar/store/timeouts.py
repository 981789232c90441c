"""Time-outs: replies that did not come in time."""

from typing import Final

from sqlalchemy import BigInteger, Connection, Update, bindparam, func, select, text, update

from chapar.model.message import Status
from chapar.model.reason import Reason
from chapar.store.schema import IS_AWAITED, messages

_AT_ONCE: Final = 1000  # messages in one commit: a bulk's are over at nearly the same time

_AT = bindparam("at", type_=BigInteger)
_is_awaited = text(IS_AWAITED)


def _overdue(before: Status) -> Update:
    """Give up the replies that are overdue, the oldest first. What another process holds is left to it."""
    overdue = (
        select(messages.c.seq)
        # The empty string keeps every planner at the index by `reply_by`.
        .where(_is_awaited, messages.c.reply_by <= _AT, messages.c.status.concat("") == before.value)
        .order_by(messages.c.reply_by)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("overdue")
    )
    return (
        update(messages)
        .where(messages.c.seq.in_(select(overdue.c.seq)))
        .values(status=Status.TIMED_OUT.value, reason=Reason.NO_REPLY.value, finished_at=_AT)
        .returning(messages.c.id, messages.c.imei, messages.c.status)
    )


# One for each state before, which is not known after it.
_OVERDUE = {before: _overdue(before) for before in (Status.PUBLISHED, Status.ACKNOWLEDGED)}

NEXT_TIMEOUT: Final = select(func.min(messages.c.reply_by)).where(_is_awaited).scalar_subquery()
"""When the next reply is overdue."""


def time_out(connection: Connection, at: int) -> list[tuple[str, str, str, str]]:
    """Give up what is overdue; id and device of each message, and its states before and after."""
    return [
        (id_, imei, before.value, after)
        for before, statement in _OVERDUE.items()
        for id_, imei, after in sorted(map(tuple, connection.execute(statement, {"at": at})))
    ]
