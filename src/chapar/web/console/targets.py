"""The devices that a form is for: a list of them, or all that have something in common."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from chapar.devices.registry import Registry
from chapar.errors import ChaparError, FieldInvalid, Phrase
from chapar.model.device import DeviceFilters, KnownDevice, State
from chapar.model.message import Command, Condition, check_device_id
from chapar.model.principal import Caller, Scope
from chapar.web.console.devices import read_filters
from chapar.web.http.entrance import check

MOST_DEVICES: Final = 1000  # of one form

SELECTOR: Final = ("labels", "presence", "profile", "q")
"""The fields that say what devices have in common."""

_BETWEEN: Final = re.compile(r"[\s,;\u060c\u061b]+")  # ids in a list


class Target(NamedTuple):
    """A device that a form is for, as it is before anything is sent."""

    imei: str
    known: KnownDevice | None  #: None: it is not registered, or the caller may not see it
    refusal: ChaparError | None  #: why it would get nothing
    is_away: bool  #: the message is for a device that is online, and this one is not known to be


def has_selector(asked: Mapping[str, str]) -> bool:
    """Return whether a form says what its devices have in common."""
    return any(asked.get(name) for name in SELECTOR)


async def read_targets(registry: Registry, caller: Caller, asked: Mapping[str, str]) -> list[str]:
    """The devices that a form is for, each once: those that were shown before, a list, or all that fit.

    Raises FieldInvalid, ScopeMissing, StoreUnavailable.
    """
    if "to" in asked:
        return read_list(asked["to"])
    if not has_selector(asked):
        return read_list(asked.get("imei", ""))
    if asked.get("imei"):
        raise FieldInvalid("imei", Phrase("rule.list_and_selector"))
    check(caller, Scope.DEVICES_READ)
    found = list(await _known(registry, caller, read_filters(asked, _lines(asked.get("labels", "")))))
    if not found:
        raise FieldInvalid("imei", Phrase("rule.selects_none"))
    return found


def read_list(text: str) -> list[str]:
    """The ids in a text, each once; raises FieldInvalid."""
    devices = list(dict.fromkeys(check_device_id(each) for each in _BETWEEN.split(text.strip())))
    if len(devices) > MOST_DEVICES:
        raise FieldInvalid("imei", Phrase("rule.message_count", limit=MOST_DEVICES))
    return devices


async def targets_of(
    registry: Registry, caller: Caller, commands: Sequence[Command], refusals: Sequence[ChaparError | None]
) -> list[Target]:
    """The device of each command, with what is known of it, and why it would be refused; raises StoreUnavailable."""
    known: Mapping[str, KnownDevice] = {}
    sees = Scope.DEVICES_READ in caller.principal.scopes
    if sees:
        known = await _known(registry, caller, DeviceFilters(imeis=tuple(command.imei for command in commands)))
    return [
        Target(command.imei, device := known.get(command.imei), refusal, sees and _is_away(command, device))
        for command, refusal in zip(commands, refusals, strict=True)
    ]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _is_away(command: Command, device: KnownDevice | None) -> bool:
    is_there = device is not None and device.presence.state is State.ONLINE and not device.presence.stale
    return command.condition is Condition.ONLINE and not is_there


async def _known(registry: Registry, caller: Caller, filters: DeviceFilters) -> dict[str, KnownDevice]:
    """The devices that fit, by their ids; raises FieldInvalid where there are more than a form is for."""
    found: dict[str, KnownDevice] = {}
    after: str | None = None
    while True:
        page = await registry.page(caller, filters, after=after, limit=MOST_DEVICES + 1)
        found |= {known.device.imei: known for known in page.devices}
        if len(found) > MOST_DEVICES:
            raise FieldInvalid("imei", Phrase("rule.selects_many", limit=MOST_DEVICES))
        if page.next is None:
            return found
        after = page.next
