"""Idempotency keys in the database: which message a key made, and what its first request was answered."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Dialect, and_, bindparam, select, update

from chapar.errors import NotSaved
from chapar.model.acceptance import IdempotencyKey, KeptAnswer
from chapar.store.operations import Kind, batch_table, run_batch, run_on_list
from chapar.store.schema import Row, keys

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_OWNER = select(keys).where(keys.c.principal == bindparam("principal"), keys.c.key == bindparam("key"))
_OWNERS = "SELECT {columns} FROM idempotency_keys WHERE principal = {principal} AND key {names}"
_COLUMNS = ", ".join(IdempotencyKey._fields)
# All keys are one parameter: with one for each, every number of them would be a statement of its own.
_OWNERS_SQL: Final = {
    "sqlite": _OWNERS.format(columns=_COLUMNS, principal="?", names="IN (SELECT value FROM json_each(?))"),
    "postgresql": _OWNERS.format(columns=_COLUMNS, principal="%s", names="= ANY (%s::text[])"),
}
_OWN_KEY = and_(
    keys.c.principal == bindparam("of_principal"),
    keys.c.key == bindparam("of_key"),
    keys.c.message_id == bindparam("of_message"),
)
_KEY = select(keys).where(_OWN_KEY)
_FORGET = keys.delete().where(_OWN_KEY)
_FREE = keys.delete().where(_OWN_KEY, keys.c.answer_status.is_(None))


class Keys:
    """The idempotency keys. They are added with their messages, by `Messages.add`."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    def answer(self, answers: Sequence[KeptAnswer]) -> asyncio.Future[list[IdempotencyKey | NotSaved | None]]:
        """Keep what the first requests of keys were answered; later ones get the same.

        The future has each key as it is now: with this answer, or with one that was kept before; None where the
        message was withdrawn, and the key with it.
        """
        return self._commits.submit(ANSWER, answers)

    async def owner(self, key: tuple[str, str], at: int) -> IdempotencyKey | None:
        """Return what a principal's idempotency key was used for, None where it is free at the time `at`.

        Raises StoreUnavailable.
        """
        return await self._lookups.read(lambda connection: owner_of(connection, key, at))


def owner_of(connection: Connection, key: tuple[str, str], at: int) -> IdempotencyKey | None:
    """Return what a principal's key was used for, unless that is so long before `at` that it may be used anew."""
    found = connection.execute(_OWNER, {"principal": key[0], "key": key[1]}).one_or_none()
    owner = None if found is None else IdempotencyKey._make(found)
    return owner if owner is not None and owner.kept_until > at else None


def owners_of(connection: Connection, asked: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], IdempotencyKey]:
    """Keys in use among those asked for, each at a time (ms since the epoch); the outlived ones are dropped."""
    owners: dict[tuple[str, str], IdempotencyKey] = {}
    sql = _OWNERS_SQL[connection.dialect.name]
    for principal, pairs in groupby(sorted(asked), itemgetter(0)):
        for owner in map(IdempotencyKey._make, run_on_list(connection, sql, principal, [key for _, key in pairs])):
            if owner.kept_until > asked[owner[:2]]:
                owners[owner[:2]] = owner
            else:
                connection.execute(_FORGET, _own(owner))
    return owners


@cache
def _insert_sql(dialect: Dialect) -> str:
    names = list(IdempotencyKey._fields)
    if dialect.name == "postgresql":
        rows = batch_table({name: keys.c[name].type for name in names})
        return str(keys.insert().from_select(names, select(*rows.c)).compile(dialect=dialect))
    return str(keys.insert().compile(dialect=dialect, column_keys=names))


def keep_keys(connection: Connection, new: Sequence[IdempotencyKey]) -> None:
    """Keep keys that are free."""
    if new:
        run_batch(connection, _insert_sql(connection.dialect), new)


def free_key(connection: Connection, key: IdempotencyKey) -> bool:
    """Forget a key, so that it may be used anew; whether it was there, its first request unanswered."""
    return connection.execute(_FREE, _own(key)).rowcount == 1


_IDENTITY = ("principal", "key", "message_id")

_PackedAnswer = tuple[int, str, str, str, str]
"""An answer as it crosses: its status and its body, then what identifies the key."""


# The order of the parameters is that of a packed answer.
@cache
def _answer_sql(dialect: Dialect) -> str:
    types = {f"given_{name}": keys.c[name].type for name in ("answer_status", "answer_body", *_IDENTITY)}
    given: Callable[[str], ColumnElement[Any]]
    given = batch_table(types).c.__getitem__ if dialect.name == "postgresql" else bindparam
    statement = (
        update(keys)
        .values(answer_status=given("given_answer_status"), answer_body=given("given_answer_body"))
        .where(*(keys.c[name] == given(f"given_{name}") for name in _IDENTITY), keys.c.answer_status.is_(None))
    )
    return str(statement.compile(dialect=dialect))


def _answer(connection: Connection, answers: Sequence[_PackedAnswer]) -> Sequence[Row | Literal[True] | None]:
    """True where a key has this answer now; else the key as it is, None where its message was withdrawn."""
    if run_batch(connection, _answer_sql(connection.dialect), answers) == len(answers):
        return [True] * len(answers)
    owned = (
        {"of_principal": principal, "of_key": key, "of_message": message} for _, _, principal, key, message in answers
    )
    found = (connection.execute(_KEY, own).one_or_none() for own in owned)
    return [None if row is None else tuple(row) for row in found]


def _packed(answer: KeptAnswer) -> _PackedAnswer:
    key = answer.key
    return answer.status, answer.body, key.principal, key.key, key.message_id


def _named(answer: KeptAnswer, found: Row | Literal[True] | None) -> IdempotencyKey | None:
    if found is True:
        return answer.key._replace(answer_status=answer.status, answer_body=answer.body)
    return None if found is None else IdempotencyKey._make(found)


def _own(key: IdempotencyKey) -> dict[str, str]:
    return {"of_principal": key.principal, "of_key": key.key, "of_message": key.message_id}


ANSWER: Final[Kind[KeptAnswer, IdempotencyKey | None]] = Kind("answer", _answer, _packed, _named)
