"""Values of accepting a message: its idempotency key, its sender, and where it stands once it is added."""

from typing import NamedTuple

from chapar.model.message import Status


class Key(NamedTuple):
    """An idempotency key, and what it was used for. The fields are the columns of the table, in their order."""

    principal: str  #: whose key it is
    key: str
    fingerprint: str  #: SHA-256 of the request, in hexadecimal
    message_id: str  #: the message it made
    process: str  #: token of the process that answers the first request
    answer_status: int | None  #: what was answered, None while nothing was
    answer_body: str | None
    kept_until: int  #: ms since the epoch; then the key may be used anew


class Sender(NamedTuple):
    """Who sends a message, as the audit trail says."""

    principal: str
    name: str
    address: str


class Place(NamedTuple):
    """Where a message that was added stands."""

    status: Status
    claim: str | None


class Full(NamedTuple):
    """Not added: the device has as many unfinished messages as it may have."""

    oldest: str  #: id of the one in front


Added = Place | Key | Full
"""What came of adding a message: where it stands; the key's owner, where that is another message; or Full."""
