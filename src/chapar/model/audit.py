"""The audit trail's values: what was done, by whom, to what."""

from enum import StrEnum
from typing import Final, NamedTuple, Self

from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import Message, has_forbidden_character
from chapar.model.principal import EVERYWHERE, Caller, Reach

KEY_REVOKED: Final = "key revoked"
"""Why messages were cancelled with the key that sent them: the `detail` of their entries."""
PURGED: Final = "purged"
"""Why messages were cancelled with all else that waited for their device."""


class Action(StrEnum):
    """Kinds of entries: what was done."""

    SENT = "message_sent"  #: A message was accepted, whatever became of it.
    CANCELLED = "message_cancelled"
    KEY_CREATED = "key_created"
    KEY_EXPIRES = "key_expires"  #: A key was given another end.
    KEY_REVOKED = "key_revoked"
    DEVICE_PUT = "device_put"  #: A device was registered, or described anew.
    DEVICE_FORGOTTEN = "device_forgotten"  #: All that was known of a device was removed, but for its messages.
    QUEUE_PAUSED = "queue_paused"  #: Nothing leaves for a device from then on.
    QUEUE_RESUMED = "queue_resumed"
    PRUNED = "messages_pruned"  #: Finished messages were removed by `chapar prune`.
    RESTORED = "backup_restored"  #: A backup was put in the place of the database by `chapar restore`.
    HELD = "queue_held"  #: What a restored database had unsent is held since.
    RELEASED = "queue_released"  #: What was held may leave again.
    MIGRATED = "schema_migrated"  #: The tables were brought to another revision.

    @classmethod
    def named(cls, name: str, field: str) -> Self:
        """The action with this name; raises FieldInvalid naming those there are."""
        try:
            return cls(name)
        except ValueError:
            every = tuple(cls)
            raise FieldInvalid(field, Phrase("rule.one_of", names=every)) from None


def check_filter(text: str | None, field: str) -> str | None:
    """Return what entries are to have unchanged; raises FieldInvalid for what no database keeps."""
    if text is not None and has_forbidden_character(text):
        raise FieldInvalid(field, Phrase("rule.control_characters"))
    return text


class Entry(NamedTuple):
    """One thing that was done. The fields are the columns of the table, in their order, but for `seq`."""

    at: int  #: ms since the epoch
    principal: str  #: who did it; empty for anybody where access is open
    name: str  #: of the principal then, for people
    address: str  #: where it was asked from
    action: str
    subject: str  #: id of the message, the key or the device; empty where it is about the whole database
    imei: str | None = None
    micro_op: str | None = None
    detail: str | None = None  #: what else there is to say

    @property
    def size(self) -> int:
        """Characters of all its texts."""
        return sum(len(field) for field in self if isinstance(field, str))


def cancellation(caller: Caller, message: Message, at: int, why: str | None = None) -> Entry:
    """Return the trail's entry about a message that a caller withdraws."""
    principal = caller.principal
    subject = (message.id, message.imei, message.micro_op)
    return Entry(at, principal.id, principal.name, caller.address, Action.CANCELLED.value, *subject, why)


def about_device(caller: Caller, action: Action, imei: str, at: int, detail: str | None = None) -> Entry:
    """Return the trail's entry about what a caller does to a device."""
    principal = caller.principal
    return Entry(at, principal.id, principal.name, caller.address, action.value, imei, imei, None, detail)


class AuditFilters(NamedTuple):
    """Conditions on entries: those are meant that fit everything that is given."""

    principal: str | None = None
    action: Action | None = None
    imei: str | None = None
    subject: str | None = None
    since: int | None = None  #: at this time or later, ms since the epoch
    until: int | None = None  #: before this time, ms since the epoch
    reach: Reach = EVERYWHERE


class AuditPage(NamedTuple):
    """Some of the entries that fit, newest first."""

    entries: list[tuple[int, Entry]]  #: with their numbers
    next: int | None  #: `before` of the next page; None: nothing follows
