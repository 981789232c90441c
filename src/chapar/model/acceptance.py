"""Values of accepting a message: its idempotency key, its sender, where it stands once added, and its withdrawal."""

from typing import Final, NamedTuple

from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import Message, Status

UNBOUNDED: Final = 2**31
MAX_KEY_LENGTH: Final = 255  # characters of an idempotency key; a UUID has 36


def check_key(key: str, field: str) -> str:
    """Return an idempotency key unchanged; raises FieldInvalid for what cannot be one."""
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise FieldInvalid(field, Phrase("rule.idempotency_key", limit=MAX_KEY_LENGTH))
    return key


class IdempotencyKey(NamedTuple):
    """An idempotency key, and what it was used for. The fields are the columns of the table, in their order."""

    principal: str  #: whose key it is
    key: str
    fingerprint: str  #: SHA-256 of the request, in hexadecimal
    message_id: str  #: the message it made
    process: str  #: token of the process that answers the first request
    answer_status: int | None  #: what was answered, None while nothing was
    answer_body: str | None
    kept_until: int  #: ms since the epoch; then the key may be used anew


class KeptAnswer(NamedTuple):
    """The answer that the first request of a key was given."""

    key: IdempotencyKey
    status: int
    body: str


class Sender(NamedTuple):
    """The sender of a message, as the audit trail names it."""

    principal: str
    name: str
    address: str


class Addition(NamedTuple):
    """A message to be added, and what is committed with it."""

    message: Message
    max_depth: int = UNBOUNDED  #: unfinished messages that its device may have
    key: IdempotencyKey | None = None
    sender: Sender | None = None  #: whom the audit trail names; None: it says nothing


class Placement(NamedTuple):
    """The first state of a message that was added."""

    status: Status
    claim: str | None

    def is_as_asked(self, message: Message) -> bool:
        """Return whether the message stands where it was to be."""
        return self.status is message.status and self.claim == message.claim


class Full(NamedTuple):
    """Not added: the device has as many unfinished messages as it may have."""

    oldest: str  #: id of the one in front


Added = Placement | IdempotencyKey | Full
"""What came of adding a message: where it stands; the key's owner, where that is another message; or Full."""


class Withdrawal(NamedTuple):
    """Takes an addition back whose outcome is unknown."""

    never: Message  #: as it is recorded where it is not there: rejected
    claim: str | None  #: under which it was to be added
    key: IdempotencyKey | None  #: which is free again
