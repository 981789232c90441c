"""The devices that are known: find them, register and describe them, forget them, withdraw what waits for one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple

from chapar.devices.presence import Presences
from chapar.errors import ChaparError, DeviceNotFound, DevicePaused, DevicesExhausted, FieldInvalid, NotSaved, Phrase
from chapar.model.audit import PURGED, Action, Entry, about_device
from chapar.model.device import (
    MAX_LABELS,
    DeviceFilters,
    DevicePage,
    Edit,
    KnownDevice,
    PresenceCounts,
    Registration,
    registration,
)
from chapar.model.message import Message, Profile
from chapar.model.principal import Caller
from chapar.runtime.clock import Clock
from chapar.store.devices import Devices, Put
from chapar.store.purges import Purge, Purges

_AT_ONCE: Final = 1000  # devices of a list


class Description(NamedTuple):
    """All that somebody says of a device. Its text is checked already."""

    name: str | None
    profile: Profile | None  #: None: the setting `default_profile`
    labels: Mapping[str, str]


class Registry:
    """The devices within the caller's reach. Every method raises DeviceNotFound for one that is not."""

    def __init__(
        self,
        devices: Devices,
        purges: Purges,
        presences: Presences,
        clock: Clock,
        *,
        default_profile: Profile,
        max_devices: int,
        patience: float,
    ) -> None:
        """`patience`: seconds that a commit may take."""
        self._devices = devices
        self._purges = purges
        self._presences = presences
        self._clock = clock
        self._default_profile: Final = default_profile.value
        self._max_devices = max_devices
        self._patience = patience

    async def page(self, caller: Caller, filters: DeviceFilters, *, after: str | None, limit: int) -> DevicePage:
        """A page of at most `limit` devices behind the one with the id `after`; raises StoreUnavailable."""
        within = filters._replace(reach=caller.principal.reach, default_profile=self._default_profile)
        page = await self._devices.page(within, after=after, limit=limit, now=self._clock.now())
        return page._replace(devices=list(map(self._up_to_date, page.devices)))

    async def all(self, caller: Caller, filters: DeviceFilters) -> AsyncIterator[list[KnownDevice]]:
        """All devices that fit, in the order of their ids, in lists of bounded size; raises StoreUnavailable."""
        after: str | None = None
        while True:
            page = await self.page(caller, filters, after=after, limit=_AT_ONCE)
            yield page.devices
            after = page.next
            if after is None:
                return

    async def find(self, caller: Caller, imei: str) -> KnownDevice:
        """All that is known of a device; raises StoreUnavailable."""
        reach = caller.principal.reach
        found = await self._devices.find(imei, reach, self._clock.now()) if reach.covers_device(imei) else None
        if found is None:
            raise DeviceNotFound(imei)
        return self._up_to_date(found)

    async def counts(self, caller: Caller) -> PresenceCounts:
        """Count the devices by their presence; raises StoreUnavailable."""
        return await self._devices.counts(caller.principal.reach, self._clock.now())

    async def owed(self, caller: Caller, imei: str, limit: int) -> list[Message]:
        """Give the first messages within reach that a device has yet to get or to answer, in the order of acceptance.

        Raises StoreUnavailable.
        """
        self._check(caller, imei)
        return await self._devices.owed(imei, caller.principal.reach, limit)

    async def put(self, caller: Caller, imei: str, description: Description) -> tuple[KnownDevice, Registration]:
        """Register a device, or describe it anew.

        Raises DevicesExhausted, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        fields = {"name": description.name, "profile": description.profile}
        [done] = await self.edit(caller, [Edit(imei, fields, description.labels, keeps_labels=False)])
        if isinstance(done, ChaparError):
            raise done
        return await self.find(caller, imei), done

    async def edit(self, caller: Caller, edits: Sequence[Edit]) -> list[Registration | ChaparError]:
        """Register or describe many devices, one after the other, in one commit; gives what became of each.

        Raises NotSaved, OutcomeUnknown.
        """
        reach = caller.principal.reach
        within = [edit for edit in edits if reach.covers_device(edit.imei)]
        puts = [Put(edit, self._entry(caller, Action.DEVICE_PUT, edit.imei), self._max_devices) for edit in within]
        done = iter(await self._devices.put_all(puts, self._deadline()))
        ends = [self._end(edit, next(done) if reach.covers_device(edit.imei) else None) for edit in edits]
        for edit, end in zip(edits, ends, strict=True):
            if isinstance(end, Registration):
                self._presences.registered(edit.imei)
        return ends

    async def foresee(self, caller: Caller, edits: Sequence[Edit], made: int) -> list[Registration | ChaparError]:
        """Give what `edit` would after it had registered `made` other devices; raises StoreUnavailable."""
        known, count = await self._devices.described([edit.imei for edit in edits])
        room, now = self._max_devices - count - made, self._clock.now()
        ends = []
        for edit in edits:
            if not caller.principal.reach.covers_device(edit.imei):
                ends.append(self._end(edit, None))
                continue
            before = known.get(edit.imei)
            after = edit.of(before, now)
            result = registration(before, after, room)
            if result in (Registration.MADE, Registration.CHANGED):
                known[edit.imei] = after
                room -= before is None
            ends.append(self._end(edit, result))
        return ends

    async def forget(self, caller: Caller, imei: str) -> None:
        """Forget a device and all that is known of it, but for its messages; it may register itself anew.

        Raises DevicePaused, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        if (await self.find(caller, imei)).queue.pause is not None:
            raise DevicePaused(imei)
        if not await self._devices.delete(self._entry(caller, Action.DEVICE_FORGOTTEN, imei), self._deadline()):
            raise DeviceNotFound(imei)
        self._presences.forgotten(imei)

    async def purge(self, caller: Caller, imei: str) -> int:
        """Withdraw what waits for a device, registered or not, as far as the caller reaches; gives how many messages.

        Raises NotSaved, OutcomeUnknown.
        """
        self._check(caller, imei)
        entry = self._entry(caller, Action.CANCELLED, imei)._replace(detail=PURGED)
        return await self._purges.purge(Purge(entry, caller.principal.reach), self._patience)

    def _end(self, edit: Edit, end: Registration | NotSaved | None) -> Registration | ChaparError:
        """The end of an edit as its caller is to see it; None: the device is out of reach."""
        match end:
            case None:
                return DeviceNotFound(edit.imei)
            case Registration.NO_ROOM:
                return DevicesExhausted(self._max_devices)
            case Registration.LABELS_EXHAUSTED:
                return FieldInvalid("labels", Phrase("rule.label_count", limit=MAX_LABELS))
            case _:
                return end

    def _check(self, caller: Caller, imei: str) -> None:
        if not caller.principal.reach.covers_device(imei):
            raise DeviceNotFound(imei)

    def _up_to_date(self, found: KnownDevice) -> KnownDevice:
        """Add when it was last seen, as far as this process knows it better than the database."""
        seen = self._presences.last_seen(found.device.imei)
        return found if seen is None else found._replace(last_seen=seen)

    def _entry(self, caller: Caller, action: Action, imei: str) -> Entry:
        return about_device(caller, action, imei, self._clock.now())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience
