"""Forgetting: what is finished and old enough goes, in small batches that stall nobody."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, BindParameter, Connection, bindparam, delete, select, tuple_

from chapar.model.message import UNFINISHED
from chapar.store.operations import Kind
from chapar.store.schema import attempts, keys, messages

_OLD = (
    select(messages.c.id)
    .where(
        messages.c.id < bindparam("before_id"),
        messages.c.created_at < bindparam("before", type_=BigInteger),
        # The empty string keeps planners off the index by status: the oldest come first by id.
        messages.c.status.concat("").not_in([status.value for status in UNFINISHED]),
    )
    .order_by(messages.c.id)
    .limit(bindparam("limit"))
)
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_FORGET_MESSAGES = delete(messages).where(messages.c.id.in_(_IDS))
_FORGET_ATTEMPTS = delete(attempts).where(attempts.c.message_id.in_(_IDS))
_OUTLIVED = (
    select(keys.c.principal, keys.c.key)
    .where(keys.c.kept_until <= bindparam("at", type_=BigInteger))
    .limit(bindparam("limit"))
)
_FORGET_KEYS = delete(keys).where(tuple_(keys.c.principal, keys.c.key).in_(_OUTLIVED))


class Prune(NamedTuple):
    """The arguments of a PRUNE."""

    before_id: str  #: what every id of a message to keep sorts behind
    before: int  #: the time that it stands for, ms since the epoch
    at: int  #: the time now, ms since the epoch
    limit: int  #: messages, and keys, that it removes at most


def _prune(connection: Connection, prunes: Sequence[Prune]) -> Sequence[tuple[int, int]]:
    """How many messages, and how many keys, each removed."""
    return [_prune_one(connection, prune) for prune in prunes]


def _prune_one(connection: Connection, prune: Prune) -> tuple[int, int]:
    outlived = connection.execute(_FORGET_KEYS, {"at": prune.at, "limit": prune.limit}).rowcount
    old = {"before_id": prune.before_id, "before": prune.before, "limit": prune.limit}
    ids = connection.execute(_OLD, old).scalars().all()
    if ids:
        connection.execute(_FORGET_ATTEMPTS, {"ids": ids})
        connection.execute(_FORGET_MESSAGES, {"ids": ids})
    return len(ids), outlived


PRUNE: Kind[Prune, tuple[int, int]] = Kind("prune", 8, _prune)
