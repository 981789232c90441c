"""Callers, as the gateway knows them."""

from chapar.model.audit import Action, Entry
from chapar.model.principal import ANYBODY, Caller

CALLER = Caller(ANYBODY, "127.0.0.1")
"""Anybody, while access is open."""


def cancelling(message_id: str, at: int) -> Entry:
    """What the audit trail is to say of a message that CALLER withdraws."""
    return Entry(at, CALLER.principal.id, CALLER.principal.name, CALLER.address, Action.CANCELLED.value, message_id)
