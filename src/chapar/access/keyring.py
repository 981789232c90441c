"""API keys: make, list, limit and revoke them. Nobody gives away more than they have."""

import asyncio
import secrets
import string
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Final, NamedTuple

from chapar.access.api_keys import hash_of, new_api_key
from chapar.access.door import KEY_KNOWN, Door
from chapar.errors import ApiKeyNotFound, FieldInvalid, GrantTooWide, Phrase
from chapar.model.api_key import ApiKey, KeyChange
from chapar.model.audit import Action, Entry
from chapar.model.lines import plain
from chapar.model.principal import Caller, Reach, Scope
from chapar.model.times import rfc3339
from chapar.runtime.clock import Clock
from chapar.store.api_keys import ApiKeys

MAX_NAME: Final = 100  # characters
_ID_LENGTH: Final = 10
_ID_ALPHABET: Final = string.digits + string.ascii_lowercase


class Grant(NamedTuple):
    """The rights, name and end of a new key."""

    name: str
    scopes: frozenset[Scope]
    reach: Reach
    expires_at: int | None  #: ms since the epoch; None: it has no end
    ends_with_maker: bool = False  #: no end was asked for: it ends with the key or token of whoever makes it


class Issued(NamedTuple):
    """A new key; the only time that the key itself is known."""

    secret: str
    key: ApiKey
    entry: Entry


def issue(caller: Caller, grant: Grant, now: int, key_id: str | None = None) -> Issued:
    """Make a key, with a random id where none is given; raises FieldInvalid, GrantTooWide."""
    if not 0 < len(grant.name.strip()) <= MAX_NAME or grant.name != plain(grant.name):
        raise FieldInvalid("name", Phrase("rule.name", limit=MAX_NAME))
    if not grant.scopes:
        raise FieldInvalid("scopes", Phrase("rule.no_scope"))
    expires_at = caller.principal.ends_at if grant.ends_with_maker else grant.expires_at
    _check_end(expires_at, now)
    _check_own_end(caller, expires_at)
    if excess := grant.scopes - caller.principal.scopes:
        raise GrantTooWide(tuple(sorted(excess)))
    if not caller.principal.reach.includes(grant.reach):
        raise GrantTooWide((*grant.reach.devices, *grant.reach.operations))
    secret = new_api_key()
    key = ApiKey(
        key_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)),
        hash_of(secret),
        grant.name.strip(),
        grant.scopes,
        grant.reach,
        now,
        caller.principal.id,
        expires_at,
    )
    return Issued(secret, key, _entry(caller, Action.KEY_CREATED, key, now, " ".join(sorted(key.scopes))))


def revocation(caller: Caller, key: ApiKey, now: int) -> KeyChange:
    """End a key at once and for good."""
    return KeyChange(key.id, now, for_good=True, entry=_entry(caller, Action.KEY_REVOKED, key, now, None))


def new_end(caller: Caller, key: ApiKey, expires_at: int | None, now: int) -> KeyChange:
    """Give a key another end; less time than it has may always be given.

    Raises FieldInvalid for an end that has passed, GrantTooWide for a later one that is after the caller's own.
    """
    _check_end(expires_at, now)
    if _is_later(expires_at, key.expires_at):
        _check_own_end(caller, expires_at)
    detail = "never" if expires_at is None else str(expires_at)
    return KeyChange(key.id, expires_at, for_good=False, entry=_entry(caller, Action.KEY_EXPIRES, key, now, detail))


def may_see(caller: Caller, key: ApiKey) -> bool:
    """Return whether a key is the caller's business: it has no right that the caller has not."""
    return caller.principal.scopes >= key.scopes and caller.principal.reach.includes(key.reach)


def _check_end(expires_at: int | None, now: int) -> None:
    if expires_at is not None and expires_at <= now:
        raise FieldInvalid("expires_at", Phrase("rule.past"))


def _check_own_end(caller: Caller, expires_at: int | None) -> None:
    """Raise GrantTooWide for an end after that of the caller's own key or token: nobody gives away what they lose."""
    if _is_later(expires_at, caller.principal.ends_at):
        raise GrantTooWide((f"expires_at > {rfc3339(caller.principal.ends_at)}",))


def _is_later(end: int | None, other: int | None) -> bool:
    """Return whether one end is after another; None is never."""
    return other is not None and (end is None or end > other)


def _id_of(token: str) -> str:
    """The id of the key that is made with a token: the same for the same token."""
    number = int.from_bytes(sha256(token.encode()).digest(), "big")
    return "".join(
        _ID_ALPHABET[number // len(_ID_ALPHABET) ** place % len(_ID_ALPHABET)] for place in range(_ID_LENGTH)
    )


def _entry(caller: Caller, action: Action, key: ApiKey, now: int, detail: str | None) -> Entry:
    principal = caller.principal
    return Entry(
        now,
        principal.id,
        principal.name,
        caller.address,
        action.value,
        key.id,
        detail=key.name if detail is None else f"{key.name}: {detail}",
    )


class Keyring:
    """The API keys of a running gateway, as callers with the scope `keys:write` manage them."""

    def __init__(self, keys: ApiKeys, door: Door, clock: Clock, patience: float, *, alone: bool) -> None:
        """`patience`: seconds that a commit may take; `alone`: no other process checks credentials."""
        self._keys = keys
        self._door = door
        self._clock = clock
        self._patience = patience
        self._alone = alone

    async def create(self, caller: Caller, grant: Grant) -> Issued:
        """Make a key; raises FieldInvalid, GrantTooWide, NotSaved, OutcomeUnknown."""
        return await self._save(issue(caller, grant, self._clock.now()))

    async def create_once(self, caller: Caller, grant: Grant, token: str) -> Issued | None:
        """Make a key; None where a key was made with the same token before, which nobody can show again.

        Raises FieldInvalid, GrantTooWide, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        issued = await self._save(issue(caller, grant, self._clock.now(), _id_of(token)))
        kept = await self._keys.find(issued.key.id)
        return issued if kept is not None and kept.hash == issued.key.hash else None

    async def find(self, caller: Caller, key_id: str) -> ApiKey:
        """The key with this id; raises ApiKeyNotFound, also where it is none of the caller's, and StoreUnavailable."""
        key = await self._keys.find(key_id) if key_id.isalnum() else None
        if key is None or not may_see(caller, key):
            raise ApiKeyNotFound(key_id)
        return key

    async def all(self, caller: Caller) -> AsyncIterator[list[ApiKey]]:
        """Every key that the caller may see, oldest first, in short lists; raises StoreUnavailable."""
        async for keys in self._keys.all():
            yield [key for key in keys if may_see(caller, key)]

    async def revoke(self, caller: Caller, key_id: str) -> ApiKey:
        """End a key at once and for good, on every process; raises ApiKeyNotFound, StoreError."""
        return await self._change(revocation(caller, await self.find(caller, key_id), self._clock.now()))

    async def expire(self, caller: Caller, key_id: str, expires_at: int | None) -> ApiKey:
        """Give a key another end; raises ApiKeyNotFound, FieldInvalid, StoreError."""
        return await self._change(new_end(caller, await self.find(caller, key_id), expires_at, self._clock.now()))

    async def _change(self, change: KeyChange) -> ApiKey:
        await self._keys.change(change, self._deadline())
        self._door.forget()
        if not self._alone:  # what other processes have just found out counts for a moment longer
            await asyncio.sleep(KEY_KNOWN)
        key = await self._keys.find(change.key_id)
        if key is None:
            raise ApiKeyNotFound(change.key_id)
        return key

    async def _save(self, issued: Issued) -> Issued:
        await self._keys.create(issued.key, issued.entry, self._deadline())
        await self._door.refresh()
        return issued

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience
