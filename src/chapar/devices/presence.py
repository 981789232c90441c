"""The presence of the devices, as the one process that receives from them keeps it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Final, TypeVar

import structlog

from chapar.errors import NotSaved
from chapar.link.publication import Delivery
from chapar.link.topics import DeviceTopics
from chapar.model.device import GRACE, Evidence, Word, after_live, after_retained, read_word, settled
from chapar.runtime.clock import Clock
from chapar.store.presences import Noted, StoredPresences

log = structlog.get_logger(__name__)

AT_ONCE: Final = 250  # devices in one commit, for which sends wait
SIGHTINGS_EVERY: Final = 300.0  # seconds between commits of when devices were last seen: SD cards bear no row a packet

Item = TypeVar("Item")

Contact = tuple[str, int]
"""A device that has just spoken, and when, in ms since the epoch."""

OnContact = Callable[[Sequence[Contact]], Awaitable[object]]
"""Called with up to `AT_ONCE` contacts, one a device. What comes until it is done is put together for the next call."""

_SPEAKS: Final = frozenset({Word.ONLINE, Word.SIGN_OF_LIFE})


class Presences:
    """Takes what devices publish, and keeps what follows from it: evidence, when each was last seen, and contacts.

    All of it stands in memory, and the database has evidence as soon as it changes, and every `SIGHTINGS_EVERY` when
    devices were last seen. A process that becomes the receiver calls `begin()`, then keeps `run()` going while it hands
    over to `received()`, and calls `end()` when it is the receiver no more.

    A device that nobody registered is when it first speaks, as far as the settings allow that. Otherwise it is a
    stranger: what is known of it stands in memory alone, and is stored once somebody registers it.
    """

    def __init__(
        self,
        stored: StoredPresences,
        clock: Clock,
        *,
        commands: DeviceTopics,
        presences: DeviceTopics,
        replies: DeviceTopics,
        auto_register: bool,
        max_devices: int,
    ) -> None:
        self._stored = stored
        self._clock = clock
        self._presences = presences
        # Where devices reply on the topic of their commands, what comes there may be our own.
        self._replies = None if replies.filter == commands.filter else replies
        self._auto_register = auto_register
        self._max_devices = max_devices
        self._on_contact: list[OnContact] = []
        self._has_changed = asyncio.Event()
        self._has_contacts = asyncio.Event()
        self._is_full = False  # since the last sightings were stored: no more devices may be registered
        self._has_warned = False
        self._forget_all()

    def _forget_all(self) -> None:
        self._is_receiving = False
        self._evidence: dict[str, Evidence] = {}
        self._seen: dict[str, int] = {}  # every device that is tracked, and when it last spoke, 0 for never
        self._strangers: set[str] = set()  # those of them that are not registered, as far as is known
        self._changed: dict[str, None] = {}  # those to be stored now
        self._sighted: set[str] = set()  # those that spoke since that was stored
        self._contacts: dict[str, int] = {}
        self._in_grace: dict[str, int] = {}  # since when the `offline` of a device waits to be believed

    def listen(self, on_contact: OnContact) -> None:
        """Have contacts passed on from now on."""
        self._on_contact.append(on_contact)

    def last_seen(self, imei: str) -> int | None:
        """Return when a device last spoke, in ms since the epoch; None where this process does not know."""
        return self._seen.get(imei) or None

    async def begin(self) -> None:
        """Read what is stored; raises StoreUnavailable."""
        self._forget_all()
        async for tracks in self._stored.tracks():
            for imei, evidence, seen_at in tracks:
                self._seen[imei] = seen_at or 0
                if evidence is not None:
                    self._evidence[imei] = evidence
                    self._note_grace(imei, evidence)
        self._in_grace = dict(sorted(self._in_grace.items(), key=itemgetter(1)))
        self._is_receiving = True

    async def run(self) -> None:
        """Store what changes and pass contacts on, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_storing(), name="presences")
            tasks.create_task(self._keep_passing_on(), name="contacts")

    async def end(self) -> None:
        """Store what is not stored yet, and forget all: another process knows better from now on."""
        try:
            await self._store_changes()
            await self._store_sightings()
        finally:
            self._forget_all()

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Take what devices published on their presence topics, and, as signs of life, on their reply topics."""
        at = self._clock.now()
        for delivery in deliveries:
            if (device := self._presences.device(delivery.topic)) is not None:
                word = read_word(delivery.payload)
            elif self._replies is not None and (device := self._replies.device(delivery.topic)) is not None:
                word = Word.SIGN_OF_LIFE
            else:
                continue
            if delivery.retain:
                self._take_retained(device, word, at)
            else:
                self._take(device, word, at)
        if self._changed:
            self._has_changed.set()
        if self._contacts:
            self._has_contacts.set()

    def registered(self, imei: str) -> None:
        """Note that somebody has registered a device: what is known of it is stored from now on."""
        if not self._is_receiving:
            return
        self._strangers.discard(imei)
        if self._seen.setdefault(imei, 0) or imei in self._evidence:
            self._changed[imei] = None
            self._has_changed.set()

    def forgotten(self, imei: str) -> None:
        """Note that somebody had a device forgotten."""
        self._seen.pop(imei, None)
        self._evidence.pop(imei, None)
        self._in_grace.pop(imei, None)
        self._changed.pop(imei, None)
        self._strangers.discard(imei)
        self._sighted.discard(imei)

    def _take(self, imei: str, word: Word, at: int) -> None:
        speaks = word in _SPEAKS
        if speaks and (imei in self._contacts or len(self._contacts) < self._max_devices):
            self._contacts[imei] = at
        if not self._is_tracked(imei):
            return
        before = self._evidence.get(imei)
        after = after_live(before, word, at)
        if speaks:
            self._seen[imei] = at
            self._sighted.add(imei)
        if speaks and self._auto_register and not self._is_full and imei in self._strangers:
            self._changed[imei] = None
        self._keep(imei, before, after)

    def _take_retained(self, imei: str, word: Word, at: int) -> None:
        if word in {Word.ONLINE, Word.OFFLINE} and self._is_tracked(imei):
            before = self._evidence.get(imei)
            self._keep(imei, before, after_retained(before, word, at))

    def _keep(self, imei: str, before: Evidence | None, after: Evidence | None) -> None:
        if after is before:
            return
        if after is None:
            del self._evidence[imei]
        else:
            self._evidence[imei] = after
        self._note_grace(imei, after)
        if imei not in self._strangers:
            self._changed[imei] = None

    def _note_grace(self, imei: str, evidence: Evidence | None) -> None:
        self._in_grace.pop(imei, None)
        if evidence is not None and evidence.offline_at is not None:
            self._in_grace[imei] = evidence.offline_at

    def _settle(self) -> float:
        """Have stored what is believed by now; gives the seconds until there may be more of it."""
        now = self._clock.now()
        while self._in_grace:
            imei, offline_at = next(iter(self._in_grace.items()))
            before = self._evidence[imei]
            after = settled(before, now)
            if after is before and before.offline_at is not None and abs(now - offline_at) < GRACE:
                return (offline_at + GRACE - now) / 1000
            del self._in_grace[imei]
            self._keep(imei, before, after)
        return SIGHTINGS_EVERY

    def _is_tracked(self, imei: str) -> bool:
        """Return whether there is room to track a device."""
        if imei in self._seen:
            return True
        if len(self._strangers) >= self._max_devices:
            self._warn()
            return False
        self._strangers.add(imei)
        self._seen[imei] = 0
        return True

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            note = "Further ones get their commands, and have no presence. Forget devices, or raise CHAPAR_MAX_DEVICES."
            log.warning("too_many_devices", max_devices=self._max_devices, note=note)

    async def _keep_storing(self) -> None:
        loop = asyncio.get_running_loop()
        sightings_at = loop.time() + SIGHTINGS_EVERY
        while True:
            settle_at = loop.time() + self._settle()
            if not self._changed:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(min(sightings_at, settle_at)):
                        await self._has_changed.wait()
            await self._store_changes()
            if loop.time() >= sightings_at:
                await self._store_sightings()
                sightings_at = loop.time() + SIGHTINGS_EVERY

    async def _store_changes(self) -> None:
        self._has_changed.clear()
        while changed := list(islice(self._changed, AT_ONCE)):
            for imei in changed:
                del self._changed[imei]
            await self._note(changed, self._clock.now() if self._auto_register else None)

    async def _store_sightings(self) -> None:
        """Store when devices were last seen, and what is known of strangers whom another process has registered."""
        self._is_full = False
        for some in _in_parts(sorted(self._sighted - self._strangers)):
            self._sighted.difference_update(some)
            seen = [(imei, self._seen[imei]) for imei in some if imei in self._seen]
            self._learn([imei for imei, _ in seen], await self._stored.sight(seen))
        for some in _in_parts(sorted(self._strangers)):
            await self._note(some, register_at=None)

    async def _note(self, imeis: Sequence[str], register_at: int | None) -> None:
        noted = [
            Noted(
                imei,
                self._evidence.get(imei),
                self._seen[imei] or None,
                register_at if imei in self._strangers else None,
                self._max_devices,
            )
            for imei in imeis
            if imei in self._seen
        ]
        self._sighted.difference_update(imeis)
        stored = await self._stored.note(noted)
        self._learn([each.imei for each in noted], stored)
        refused = [
            each for each, is_there in zip(noted, stored, strict=True) if each.register_at is not None and not is_there
        ]
        if refused:
            self._is_full = True
            self._warn()

    def _learn(self, imeis: Iterable[str], stored: Iterable[bool | NotSaved]) -> None:
        """Learn which devices are registered: also other processes register some, and have some forgotten."""
        for imei, is_registered in zip(imeis, stored, strict=True):
            if is_registered is True:
                self._strangers.discard(imei)
            elif imei in self._seen:
                self._strangers.add(imei)

    async def _keep_passing_on(self) -> None:
        while True:
            await self._has_contacts.wait()
            self._has_contacts.clear()
            contacts, self._contacts = list(self._contacts.items()), {}
            for some in _in_parts(contacts):
                for on_contact in self._on_contact:
                    await on_contact(some)


def _in_parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))
