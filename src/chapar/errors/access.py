"""Refusals of callers, who are not let in, or not let do what they ask: nothing was stored, nothing was sent."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError, Phrase


@dataclass(eq=False)
class AccessError(ChaparError):
    """The caller may not do this: nothing was stored, nothing was sent."""

    code = "access_denied"


@dataclass(eq=False)
class Unauthenticated(AccessError):
    """The caller did not say who it is (RFC 9110 §15.5.2)."""

    code = "unauthenticated"


@dataclass(eq=False)
class CredentialInvalid(Unauthenticated):
    """The caller's credential does not prove who it is; the problem reads on from `it`."""

    code = "credential_invalid"

    problem: Phrase


@dataclass(eq=False)
class ScopeMissing(AccessError):
    """The caller's key or token does not allow this kind of request."""

    code = "scope_missing"

    scope: str


@dataclass(eq=False)
class OutOfReach(AccessError):
    """The caller's key or token is for other devices or operations."""

    code = "out_of_reach"

    imei: str
    micro_op: str


@dataclass(eq=False)
class GrantTooWide(AccessError):
    """Nobody gives away more than they have."""

    code = "grant_too_wide"

    excess: tuple[str, ...]


@dataclass(eq=False)
class AccessUnavailable(AccessError):
    """The check cannot be made now, so nobody is let in on trust.

    `cause` is for the log: whoever asks has yet to prove who they are, and addresses of ours are not for everybody.
    """

    code = "access_unavailable"

    cause: str


@dataclass(eq=False)
class RateLimited(ChaparError):
    """The caller asked too often. `limit` is what the setting allows, `retry_after` is in seconds.

    What does not fit (`fits`) is more in one call than is ever allowed.
    """

    code = "rate_limited"

    setting: str
    limit: Phrase
    retry_after: int
    fits: bool = True

    @property
    def cure(self) -> Phrase:
        """Advice: to wait, where that helps."""
        return Phrase("part.again_in", seconds=self.retry_after) if self.fits else Phrase("part.fewer")


@dataclass(eq=False)
class ApiKeyNotFound(ChaparError):
    """No API key has this id, or none that the caller may see."""

    code = "key_not_found"

    id: str
