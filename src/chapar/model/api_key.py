"""An API key, and what may be changed about it."""

from typing import NamedTuple

from chapar.model.audit import Entry
from chapar.model.principal import Reach, Scope


class ApiKey(NamedTuple):
    """An API key, but for the key itself. Times are ms since the epoch. The fields are the columns, in their order."""

    id: str  #: public: what lists and the audit trail call it
    hash: str  #: SHA-256 of the key, in hexadecimal
    name: str  #: whom it is for
    scopes: frozenset[Scope]
    reach: Reach  #: two columns, each a JSON list
    created_at: int
    created_by: str  #: the principal that made it
    expires_at: int | None = None  #: not accepted from then on; None: never too late
    revoked_at: int | None = None
    last_used_at: int | None = None  #: to the minute

    def ended(self, at: int) -> bool:
        """Return whether it is not accepted any more at the time `at`."""
        return self.revoked_at is not None or (self.expires_at is not None and self.expires_at <= at)


class KeyChange(NamedTuple):
    """An end of a key: the time from which it is not accepted any more."""

    key_id: str
    at: int | None  #: the time, ms since the epoch; None: it has no end
    for_good: bool  #: it is revoked: nothing brings it back
    entry: Entry  #: what the audit trail says of it
