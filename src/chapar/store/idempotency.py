"""Idempotency keys in the database: which message a key made, and what its first request was answered."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, and_, bindparam, select, tuple_, update

from chapar.errors import NotSaved
from chapar.model.acceptance import IdempotencyKey, KeptAnswer
from chapar.store.operations import Kind
from chapar.store.schema import Row, keys

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_OWNERS = select(keys).where(tuple_(keys.c.principal, keys.c.key).in_(bindparam("pairs", expanding=True)))
_OWN_KEY = and_(
    keys.c.principal == bindparam("of_principal"),
    keys.c.key == bindparam("of_key"),
    keys.c.message_id == bindparam("of_message"),
)
_ANSWER = (
    update(keys)
    .where(_OWN_KEY, keys.c.answer_status.is_(None))
    .values(answer_status=bindparam("status"), answer_body=bindparam("body"))
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
    found = connection.execute(_OWNERS, {"pairs": [key]}).one_or_none()
    owner = None if found is None else IdempotencyKey._make(found)
    return owner if owner is not None and owner.kept_until > at else None


def owners_of(connection: Connection, asked: Mapping[Row, int]) -> dict[Row, IdempotencyKey]:
    """Keys in use among those asked for, each at a time (ms since the epoch); the outlived ones are dropped."""
    if not asked:
        return {}
    owners: dict[Row, IdempotencyKey] = {}
    for owner in map(IdempotencyKey._make, connection.execute(_OWNERS, {"pairs": list(asked)}).all()):
        if owner.kept_until > asked[owner[:2]]:
            owners[owner[:2]] = owner
        else:
            connection.execute(_FORGET, _own(owner))
    return owners


def keep_keys(connection: Connection, new: Sequence[IdempotencyKey]) -> None:
    """Keep keys that are free."""
    if new:
        connection.execute(keys.insert(), [key._asdict() for key in new])


def free_key(connection: Connection, key: IdempotencyKey) -> bool:
    """Forget a key, so that it may be used anew; whether it was there, its first request unanswered."""
    return connection.execute(_FREE, _own(key)).rowcount == 1


def _answer(connection: Connection, answers: Sequence[tuple[Row, int, str]]) -> Sequence[Row | None]:
    """Each key as it is now: with this answer, or with one that came before; None where its message was withdrawn."""
    owned = [_own(IdempotencyKey._make(key)) for key, _, _ in answers]
    given = [{"status": status, "body": body} for _, status, body in answers]
    connection.execute(_ANSWER, [own | answer for own, answer in zip(owned, given, strict=True)])
    found = (connection.execute(_KEY, own).one_or_none() for own in owned)
    return [None if row is None else tuple(row) for row in found]


def _packed(answer: KeptAnswer) -> tuple[Row, int, str]:
    return tuple(answer.key), answer.status, answer.body


def _named(_: KeptAnswer, row: Row | None) -> IdempotencyKey | None:
    return None if row is None else IdempotencyKey._make(row)


def _own(key: IdempotencyKey) -> dict[str, str]:
    return {"of_principal": key.principal, "of_key": key.key, "of_message": key.message_id}


ANSWER: Final[Kind[KeptAnswer, IdempotencyKey | None]] = Kind("answer", _answer, _packed, _named)
