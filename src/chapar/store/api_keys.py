"""API keys in the database: who may call with which, until when."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, bindparam, exists, func, select, tuple_, update

from chapar.model.api_key import ApiKey, KeyChange
from chapar.model.audit import Entry
from chapar.model.principal import Reach, Scope
from chapar.store.audit import add_entries
from chapar.store.operations import Kind
from chapar.store.schema import api_keys

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_PAGE = 10  # keys read at once: one may name two hundred patterns

_AT: ColumnElement[int] = bindparam("until", type_=BigInteger)
_LIVING = (api_keys.c.id == bindparam("of_key"), api_keys.c.revoked_at.is_(None))
_REVOKE = update(api_keys).where(*_LIVING).values(revoked_at=_AT)
_EXPIRE = update(api_keys).where(*_LIVING, api_keys.c.expires_at.is_distinct_from(_AT)).values(expires_at=_AT)
_USED = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("of_key"), func.coalesce(api_keys.c.last_used_at, 0) < _AT)
    .values(last_used_at=_AT)
)


class ApiKeys:
    """The API keys that were ever made."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    async def create(self, key: ApiKey, entry: Entry, deadline: float) -> None:
        """Save a new key; raises NotSaved, OutcomeUnknown."""
        await self._commits.one(CREATE_KEY, (key, entry), deadline)

    async def change(self, change: KeyChange, deadline: float) -> bool:
        """Let a key end; whether there is such a key. Raises NotSaved, OutcomeUnknown."""
        return await self._commits.one(CHANGE_KEY, change, deadline)

    async def used(self, key_id: str, at: int) -> None:
        """Keep when a key was used last."""
        await self._commits.one(KEY_USED, (key_id, at))

    async def find(self, key_id: str) -> ApiKey | None:
        """The key with this id; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: find(connection, key_id))

    async def find_by_hash(self, hash_: str) -> ApiKey | None:
        """The key with this hash; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: _find_by_hash(connection, hash_))

    async def all(self) -> AsyncIterator[list[ApiKey]]:
        """Every key, oldest first, in short lists; raises StoreUnavailable."""
        keys = await self._after(None)
        while len(keys) == _PAGE:
            yield keys
            keys = await self._after(keys[-1])
        yield keys

    async def any(self) -> bool:
        """Return whether there is one; raises StoreUnavailable."""
        return await self._lookups.read(any_key)

    async def _after(self, key: ApiKey | None) -> list[ApiKey]:
        return await self._lookups.read(lambda connection: oldest_first(connection, key, _PAGE))


def _create(connection: Connection, created: Sequence[tuple[ApiKey, Entry]]) -> Sequence[None]:
    for key, entry in created:
        if find(connection, key.id) is None:  # else it is repeated, because its answer was lost
            values = key._asdict() | {
                "scopes": json.dumps(sorted(key.scopes)),
                "devices": json.dumps(key.reach.devices),
                "operations": json.dumps(key.reach.operations),
            }
            del values["reach"]
            connection.execute(api_keys.insert().values(values))
            add_entries(connection, [entry])
    return [None] * len(created)


def _change(connection: Connection, changes: Sequence[KeyChange]) -> Sequence[bool]:
    """Return whether each key is there."""
    return [_change_one(connection, change) for change in changes]


def _change_one(connection: Connection, change: KeyChange) -> bool:
    statement = _REVOKE if change.for_good else _EXPIRE
    if connection.execute(statement, {"of_key": change.key_id, "until": change.at}).rowcount:
        add_entries(connection, [change.entry])
        return True
    return find(connection, change.key_id) is not None


def _used(connection: Connection, uses: Sequence[tuple[str, int]]) -> Sequence[None]:
    connection.execute(_USED, [{"of_key": key_id, "until": at} for key_id, at in uses])
    return [None] * len(uses)


def find(connection: Connection, key_id: str) -> ApiKey | None:
    """The key with this id; what no id holds, such as NUL, no database has to be asked for."""
    if not (key_id.isascii() and key_id.isprintable()):
        return None
    return _found(connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none())


def _find_by_hash(connection: Connection, hash_: str) -> ApiKey | None:
    """The key with this hash."""
    return _found(connection.execute(select(api_keys).where(api_keys.c.hash == hash_)).one_or_none())


def oldest_first(connection: Connection, after: ApiKey | None = None, limit: int | None = None) -> list[ApiKey]:
    """Every key that was ever made, oldest first; up to `limit` of them, `after` another."""
    order = api_keys.c.created_at, api_keys.c.id
    statement = select(api_keys).order_by(*order).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*order) > tuple_(after.created_at, after.id))
    return list(map(_api_key, connection.execute(statement)))


def any_key(connection: Connection) -> bool:
    """Return whether a key was ever made: also where none is accepted any more, nobody meant to let everybody in."""
    return bool(connection.execute(select(exists().select_from(api_keys))).scalar_one())


def _found(row: Row[Any] | None) -> ApiKey | None:
    return None if row is None else _api_key(row)


def _api_key(row: Row[Any]) -> ApiKey:
    id_, hash_, name, scopes, devices, operations, *times = tuple(row)
    granted = set(json.loads(scopes))
    reach = Reach(tuple(json.loads(devices)), tuple(json.loads(operations)))
    # A scope that a newer version knows is none that we could honour.
    return ApiKey(id_, hash_, name, frozenset(scope for scope in Scope if scope in granted), reach, *times)


CREATE_KEY: Final[Kind[tuple[ApiKey, Entry], None]] = Kind("create_key", _create)
CHANGE_KEY: Final[Kind[KeyChange, bool]] = Kind("change_key", _change)
KEY_USED: Final[Kind[tuple[str, int], None]] = Kind("key_used", _used)
