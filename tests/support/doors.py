"""A door, and the API keys behind it, that a test holds in its hands."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from chapar.access.door import Door
from chapar.access.keyring import Grant, issue
from chapar.app.wiring import tokens_of
from chapar.errors import StoreUnavailable
from chapar.model.api_key import ApiKey, KeyChange
from chapar.model.audit import Entry
from chapar.model.principal import EVERYWHERE, Scope
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from support.callers import CALLER
from support.fakes import FakeClock


class Keys:
    """The API keys of a database, which may be away."""

    def __init__(self) -> None:
        self.by_hash: dict[str, ApiKey] = {}
        self.away = False
        self.asked = 0
        self.uses: list[tuple[str, int]] = []
        self.told: list[Entry] = []  # the audit trail
        self.deadlines: list[float] = []

    async def any(self) -> bool:
        return bool(self.by_hash)

    async def find_by_hash(self, hash_: str) -> ApiKey | None:
        self.asked += 1
        await asyncio.sleep(0)
        self._read()
        return self.by_hash.get(hash_)

    async def find(self, key_id: str) -> ApiKey | None:
        self._read()
        return next((key for key in self.by_hash.values() if key.id == key_id), None)

    async def all(self) -> AsyncIterator[list[ApiKey]]:
        for key in self.by_hash.values():
            yield [key]

    async def create(self, key: ApiKey, entry: Entry, deadline: float) -> None:
        self.deadlines.append(deadline)
        if all(key.id != other.id for other in self.by_hash.values()):
            self.by_hash[key.hash] = key
            self.told.append(entry)

    async def change(self, change: KeyChange, deadline: float) -> bool:
        self.told.append(change.entry)
        self.deadlines.append(deadline)
        key = await self.find(change.key_id)
        if key is None:
            return False
        changed = {"revoked_at" if change.for_good else "expires_at": change.at}
        self.by_hash[key.hash] = key._replace(**changed)  # type: ignore[arg-type]
        return True

    async def used(self, key_id: str, at: int) -> None:
        self._read()
        self.uses.append((key_id, at))

    def _read(self) -> None:
        if self.away:
            raise StoreUnavailable("it is away.")


class DoorBench:
    """A door between a database and a clock that the test holds in its hands."""

    def __init__(self, **settings: Any) -> None:
        self.store, self.clock = Keys(), FakeClock()
        store: Any = self.store
        self.settings = Settings.model_validate(settings)
        metrics = Metrics()
        self.door = Door(tokens_of(self.settings, metrics), store, self.clock, metrics)

    def new_key(self, *scopes: Scope, **changed: Any) -> str:
        """A key that is there already."""
        grant = Grant("backend", frozenset(scopes or {Scope.SEND}), EVERYWHERE, None)
        issued = issue(CALLER, grant, self.clock.now())
        self.store.by_hash[issued.key.hash] = issued.key._replace(**changed)
        return issued.secret
