"""Values of accepting a message: its idempotency key, its sender, where it stands once added, and its withdrawal."""

from typing import Final, NamedTuple

from chapar.errors import FieldInvalid, Phrase
from chapar.model.change import Cancelled
from chapar.model.message import Message, Profile, Status
from chapar.model.reason import Reason

UNBOUNDED: Final = 2**31
MAX_KEY_LENGTH: Final = 255  # characters of an idempotency key; a UUID has 36


def check_key(key: str, field: str) -> str:
    """Return an idempotency key unchanged; raises FieldInvalid for what cannot be one."""
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise FieldInvalid(field, Phrase("rule.idempotency_key", limit=MAX_KEY_LENGTH))
    return key


_UNFIT: Final = frozenset({Reason.PAUSED, Reason.DEVICE_OFFLINE, Reason.PRESENCE_UNKNOWN, Reason.DEVICE_BUSY})
"""Reasons why a message that is sent only where its device is online was rejected as it came."""


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
    purges: bool = False  #: all that waits for its device is withdrawn


class Placement(NamedTuple):
    """The first state of a message that was added, and what was withdrawn for it."""

    status: Status
    claim: str | None
    reason: str | None = None  #: what else it waits for in the queue, or why it is rejected
    profile: str = Profile.TEXT.value  #: of its device
    withdrawn: tuple[Cancelled, ...] = ()  #: older messages as they stand now; one on its way is still `publishing`

    def of(self, message: Message) -> Message | None:
        """The message where it stands now; None where this was repeated, and it has been moved since."""
        if self.status is message.status and self.claim == message.claim:
            is_as_asked = (self.reason, self.profile) == (message.reason, message.profile)
            return message if is_as_asked else message._replace(reason=self.reason, profile=self.profile)
        placed = message._replace(status=self.status, claim=None, reason=self.reason, profile=self.profile, attempts=0)
        match self.status:
            case Status.QUEUED if self.claim is None:
                return placed
            case Status.REJECTED if self.reason in _UNFIT:
                return placed._replace(finished_at=message.created_at)
            case _:
                return None

    def moved_since(self, message: Message) -> Message:
        """The message, added before and moved since, as far as this says."""
        attempts = min(message.attempts, self.claim is not None)
        return message._replace(
            status=self.status, claim=self.claim, reason=self.reason, profile=self.profile, attempts=attempts
        )


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
