"""The door: who may come in, by API key or by token, and whether it stands open."""

import asyncio
import hmac
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from chapar.access.api_keys import PREFIX, hash_of, is_api_key
from chapar.errors import (
    AccessUnavailable,
    CredentialInvalid,
    Phrase,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
)
from chapar.model.principal import Principal
from chapar.model.times import rfc3339
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised
from chapar.store.api_keys import ApiKeys

if TYPE_CHECKING:  # loaded where tokens are set up: what verifies them takes long to load
    from chapar.access.tokens import TokenVerifier

log = structlog.get_logger(__name__)

KEY_KNOWN: Final = 1.0
"""Seconds for which an API key is accepted without asking the database again: how late a revocation may come."""

_KEY_TRUSTED: Final = 60.0  # seconds for which a key is trusted where the database cannot be asked: nor can it commit
MOST_REMEMBERED: Final = 10_000  # credentials; what is forgotten is checked again
LOOK_EVERY: Final = KEY_KNOWN / 2  # seconds between looks whether the first key was made
_SAY_EVERY: Final = 10.0  # seconds between lines of the log on why nobody can be checked, however many ask
USES_EVERY: Final = 60.0  # seconds between writing down when keys were used


class Admission(NamedTuple):
    """Somebody who was let in, and until when that counts."""

    principal: Principal
    until: float  #: seconds since the epoch


class Door:
    """Checks credentials. Open, it lets everybody in: only where no key was ever made and no token can be verified.

    It never opens by itself: where every key has been revoked, nobody comes in.
    """

    def __init__(self, tokens: "TokenVerifier | None", keys: ApiKeys, clock: Clock, metrics: Metrics) -> None:
        self._tokens = tokens
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._admitted: dict[str, Admission] = {}
        self._asking: dict[str, asyncio.Task[Admission]] = {}
        self._silent_until = 0.0  # seconds since the epoch
        self._uses: dict[str, int] = {}  # when keys were used, ms since the epoch
        self.is_open = tokens is None  #: until `refresh` finds a key
        if tokens is not None:
            tokens.on_new_keys(self.forget)

    async def refresh(self) -> None:
        """Close the door where a key was made; raises StoreUnavailable."""
        if self.is_open and await self._keys.any():
            self.is_open = False
            log.info("access_closed", note="An API key was made: from now on everybody needs one.")

    async def run(self) -> None:
        """Look for the first key, keep the issuer's keys fresh, and write uses down, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("door", self._watch, self._metrics), name="door")
            tasks.create_task(supervised("key_uses", self._keep_uses, self._metrics), name="key_uses")
            if self._tokens is not None:
                tasks.create_task(supervised("jwks", self._tokens.keep_keys, self._metrics), name="jwks")

    def known(self, credential: str) -> Principal | None:
        """Whom this credential proves, where that was found out before and still counts."""
        admission = self._admitted.get(credential)
        return admission.principal if admission is not None and time.time() < admission.until else None

    async def admit(self, credential: str) -> Principal:
        """Whom this credential proves; raises CredentialInvalid, AccessUnavailable."""
        self._check_shape(credential)
        asked = self._asking
        asking = asked.get(credential)
        if asking is None:
            asking = asked[credential] = asyncio.create_task(self._check(credential))
            asking.add_done_callback(lambda _: asked.pop(credential, None))
        # Shielded: where one caller goes away, others who came with the same credential still wait for this.
        return (await asyncio.shield(asking)).principal

    async def readmit(self, credential: str | None) -> None:
        """Check anew, whatever is remembered, who was let in; raises what `admit` raises.

        Who came without a credential while access was open is Unauthenticated once it has closed.
        """
        if self.is_open:
            return
        if credential is None:
            raise Unauthenticated
        await self._check(credential)

    def forget(self) -> None:
        """Check every credential again: some may not count any more.

        A check under way may have read what counted before, so what it finds is not remembered either.
        """
        self._admitted = {}
        self._asking = {}

    async def write_uses(self) -> None:
        """Write down when keys were used since the last time."""
        uses, self._uses = self._uses, {}
        with suppress(StoreError):
            await asyncio.gather(*(self._keys.used(key_id, at) for key_id, at in uses.items()))

    async def _watch(self) -> None:
        while self.is_open:
            await asyncio.sleep(LOOK_EVERY)
            with suppress(StoreUnavailable):
                await self.refresh()

    async def _keep_uses(self) -> None:
        while True:
            await asyncio.sleep(USES_EVERY)
            await self.write_uses()

    def _check_shape(self, credential: str) -> None:
        """Raise CredentialInvalid for what cannot be a key or a token: a flood of it costs next to nothing."""
        if credential.startswith(PREFIX):
            if not is_api_key(credential):
                raise CredentialInvalid(Phrase("credential.mistyped"))
        elif self._tokens is None or not self._tokens.is_token(credential):
            raise self._unknown(Phrase("credential.unknown"))

    async def _check(self, credential: str) -> Admission:
        admitted = self._admitted  # `forget` may begin another while the database is read
        if self._tokens is None or credential.startswith(PREFIX):
            admission = await self._check_key(credential)
        else:
            verified = await self._tokens.verify(credential)
            admission = Admission(verified.principal, verified.expires_at)
            admitted = self._admitted  # what it is verified with is fetched first, and nothing waits after that
        if len(admitted) >= MOST_REMEMBERED:
            admitted.clear()
        admitted[credential] = admission
        return admission

    async def _check_key(self, credential: str) -> Admission:
        hash_ = hash_of(credential)
        try:
            key = await self._keys.find_by_hash(hash_)
        except StoreUnavailable as error:
            last = self._admitted.get(credential)
            if last is not None and time.time() < last.until + _KEY_TRUSTED:
                return last
            self._say_unavailable(error)
            raise AccessUnavailable(str(error)) from None
        if key is None or not hmac.compare_digest(key.hash, hash_):
            raise self._unknown(Phrase("credential.unknown_key"))
        now = self._clock.now()
        if key.revoked_at is not None:
            raise CredentialInvalid(Phrase("credential.revoked"))
        if key.ended(now):
            raise CredentialInvalid(Phrase("credential.expired", at=str(rfc3339(key.expires_at))))
        self._uses[key.id] = now
        left = KEY_KNOWN if key.expires_at is None else min(KEY_KNOWN, (key.expires_at - now) / 1000)
        principal = Principal(f"key:{key.id}", key.name, key.scopes, key.reach, key.expires_at)
        return Admission(principal, time.time() + left)

    def _unknown(self, problem: Phrase) -> CredentialInvalid:
        return CredentialInvalid(Phrase("credential.none_made") if self.is_open else problem)

    def _say_unavailable(self, error: StoreUnavailable) -> None:
        """Log, now and then, why nobody can be checked: callers are not told."""
        if time.time() >= self._silent_until:
            self._silent_until = time.time() + _SAY_EVERY
            log.warning("access_unavailable", cause=str(error.cause))
