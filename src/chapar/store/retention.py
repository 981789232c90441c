"""Forgetting: what is finished and old enough goes, in small batches that stall nobody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, BindParameter, Connection, bindparam, delete, select, text, tuple_

from chapar.model.message import UNFINISHED, first_id
from chapar.store.operations import Kind
from chapar.store.schema import IS_AWAITED, attempts, keys, messages, replies

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits

UNMATCHED_KEPT: Final = 7 * 24 * 3600 * 1000  # ms for which a reply is kept that belongs to no message

_FORGOTTEN = 500  # messages, keys, and unmatched replies, removed in one commit: a few milliseconds

_OLD = (
    select(messages.c.id)
    .where(
        messages.c.id < bindparam("before_id"),
        messages.c.created_at < bindparam("before", type_=BigInteger),
        # The empty string keeps planners off the index by status: the oldest come first by id.
        messages.c.status.concat("").not_in([status.value for status in UNFINISHED]),
        text(f"NOT ({IS_AWAITED})"),
    )
    .order_by(messages.c.id)
    .limit(bindparam("limit"))
)
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_FORGET_MESSAGES = delete(messages).where(messages.c.id.in_(_IDS))
_FORGET_ATTEMPTS = delete(attempts).where(attempts.c.message_id.in_(_IDS))
_FORGET_REPLIES = delete(replies).where(replies.c.message_id.in_(_IDS))
_FORGET_UNMATCHED = delete(replies).where(
    replies.c.seq.in_(
        select(replies.c.seq)
        .where(replies.c.message_id.is_(None), replies.c.at <= bindparam("until", type_=BigInteger))
        .limit(bindparam("limit"))
    )
)
_OUTLIVED = (
    select(keys.c.principal, keys.c.key)
    .where(keys.c.kept_until <= bindparam("at", type_=BigInteger))
    .limit(bindparam("limit"))
)
_FORGET_KEYS = delete(keys).where(tuple_(keys.c.principal, keys.c.key).in_(_OUTLIVED))


class Retention:
    """Forgetting what is old."""

    def __init__(self, commits: "Commits") -> None:
        self._commits = commits

    async def prune(self, before: int, at: int) -> AsyncIterator[int]:
        """Remove finished messages accepted before `before`, the oldest first, and keys and replies outlived at `at`.

        What is unfinished stays. Gives how many messages each small batch removed, and then rests four times as long
        as it took, so that what is sent meanwhile hardly waits.
        """
        loop = asyncio.get_running_loop()
        removed, outlived = _FORGOTTEN, 0
        while _FORGOTTEN in {removed, outlived}:
            began = loop.time()
            removed, outlived = await self._commits.one(PRUNE, Prune(first_id(before), before, at, _FORGOTTEN))
            took = loop.time() - began
            yield removed
            if _FORGOTTEN in {removed, outlived}:
                await asyncio.sleep(4 * took)


class Prune(NamedTuple):
    """The arguments of a PRUNE."""

    before_id: str  #: what every id of a message to keep sorts behind
    before: int  #: the time that it stands for, ms since the epoch
    at: int  #: the time now, ms since the epoch
    limit: int  #: messages, and keys, that it removes at most


def _prune(connection: Connection, prunes: Sequence[Prune]) -> Sequence[tuple[int, int]]:
    """Remove messages and keys; return how many of each."""
    return [_prune_one(connection, prune) for prune in prunes]


def _prune_one(connection: Connection, prune: Prune) -> tuple[int, int]:
    outlived = connection.execute(_FORGET_KEYS, {"at": prune.at, "limit": prune.limit}).rowcount
    unmatched = {"until": prune.at - UNMATCHED_KEPT, "limit": prune.limit}
    outlived = max(outlived, connection.execute(_FORGET_UNMATCHED, unmatched).rowcount)
    old = {"before_id": prune.before_id, "before": prune.before, "limit": prune.limit}
    ids = connection.execute(_OLD, old).scalars().all()
    if ids:
        connection.execute(_FORGET_ATTEMPTS, {"ids": ids})
        connection.execute(_FORGET_REPLIES, {"ids": ids})
        connection.execute(_FORGET_MESSAGES, {"ids": ids})
    return len(ids), outlived


PRUNE: Final[Kind[Prune, tuple[int, int]]] = Kind("prune", _prune)
