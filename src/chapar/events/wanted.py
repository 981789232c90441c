"""Filters of listeners: what each asked for, as far as it may have it."""

from typing import Final, NamedTuple

from chapar.model.event import Event
from chapar.model.principal import Principal, Scope

ALL: Final[frozenset[str]] = frozenset()
"""What does not narrow. One for all listeners: each of its own takes a few hundred bytes."""


class Wanted(NamedTuple):
    """The events that a listener asked for, as far as they are within its reach."""

    principal: Principal
    devices: frozenset[str] = ALL
    operations: frozenset[str] = ALL
    types: frozenset[str] = ALL

    def may_cover(self, event: Event) -> bool:
        """Return whether an event may be among them, whatever message it is about."""
        if (self.devices and event.imei not in self.devices) or (self.types and event.type not in self.types):
            return False
        scopes, reach = self.principal.scopes, self.principal.reach
        if event.id is None:
            return Scope.DEVICES_READ in scopes and not self.operations and reach.covers_device(event.imei)
        return Scope.READ in scopes and reach.covers_device(event.imei)

    def covers(self, event: Event) -> bool:
        """Return whether an event is among them."""
        if not self.may_cover(event):
            return False
        if event.id is None:
            return True
        # Of a message that was removed, nobody knows the operation any more.
        operation = "" if event.message is None else event.message.micro_op
        if self.operations and operation not in self.operations:
            return False
        return self.principal.reach.covers_operation(operation)
