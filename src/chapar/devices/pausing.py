"""Pausing: nothing leaves for a device while somebody works on it."""

import asyncio
from collections.abc import Callable

from chapar.devices.presence import Presences
from chapar.errors import DeviceNotFound, DevicesExhausted, PauseUnconfirmed
from chapar.model.audit import Action, about_device
from chapar.model.device import QueueState
from chapar.model.principal import Caller
from chapar.runtime.clock import Clock
from chapar.store.devices import Devices
from chapar.store.pauses import PauseQueue, Pauses


class Pausing:
    """The queues of the devices within the caller's reach. Every method raises DeviceNotFound for one that is not."""

    def __init__(
        self,
        devices: Devices,
        pauses: Pauses,
        presences: Presences,
        clock: Clock,
        look: Callable[[], None],
        *,
        max_devices: int,
        patience: float,
    ) -> None:
        """`look` has the queue looked at; `patience`: seconds that a commit may take."""
        self._devices = devices
        self._pauses = pauses
        self._presences = presences
        self._clock = clock
        self._look = look
        self._max_devices = max_devices
        self._patience = patience

    async def pause(self, caller: Caller, imei: str, note: str | None) -> QueueState:
        """Have nothing leave for a device until it is resumed, and register it; an earlier pause stands.

        Gives its queue, as far as the caller reaches. Raises DevicesExhausted, PauseUnconfirmed, NotSaved,
        OutcomeUnknown, StoreUnavailable.
        """
        self._check(caller, imei)
        entry = about_device(caller, Action.QUEUE_PAUSED, imei, self._clock.now(), note)
        asked = PauseQueue(entry, caller.principal.name, note, self._max_devices)
        if await self._pauses.pause(asked, self._patience) is None:
            raise DevicesExhausted(self._max_devices)
        self._presences.registered(imei)
        self._look()
        if not await self._pauses.is_in_force(self._deadline()):
            raise PauseUnconfirmed(imei)
        return await self.queue(caller, imei)

    async def resume(self, caller: Caller, imei: str) -> QueueState:
        """Let leave what waits for a device, registered or not; gives its queue, as far as the caller reaches.

        Raises NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        self._check(caller, imei)
        entry = about_device(caller, Action.QUEUE_RESUMED, imei, self._clock.now())
        if await self._pauses.resume(entry, self._deadline()):
            self._look()
        return await self.queue(caller, imei)

    async def queue(self, caller: Caller, imei: str) -> QueueState:
        """The queue of a device, registered or not, as far as the caller reaches; raises StoreUnavailable."""
        self._check(caller, imei)
        return await self._devices.queue(imei, caller.principal.reach)

    def _check(self, caller: Caller, imei: str) -> None:
        if not caller.principal.reach.covers_device(imei):
            raise DeviceNotFound(imei)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience
