"""Messages that are sent only where their device is online: which of them may leave now."""

from collections.abc import Collection

from sqlalchemy import Connection

from chapar.model.device import Presence, State
from chapar.model.message import Condition, Message
from chapar.model.reason import Reason
from chapar.store.presences import presences_of

_ONLINE = Condition.ONLINE.value  # as the rows have it


def must_be_online(message: Message) -> bool:
    """Return whether a message is sent only where its device is online."""
    return message.condition == _ONLINE


def absent(connection: Connection, imeis: Collection[str], now: int) -> dict[str, str]:
    """Those of the devices that are not known to be online at the time `now`, each with the reason for its messages."""
    if not imeis:
        return {}
    found = presences_of(connection, sorted(imeis), now)
    return {imei: _reason(presence).value for imei, presence in found.items() if not _is_there(presence)}


def _is_there(presence: Presence) -> bool:
    return presence.state is State.ONLINE and not presence.stale


def _reason(presence: Presence) -> Reason:
    return Reason.DEVICE_OFFLINE if presence.state is State.OFFLINE and not presence.stale else Reason.PRESENCE_UNKNOWN
