"""A session: a cookie with the key or token of whoever signed in, and when it was last used.

The gateway keeps nothing of it, so every process takes it, and it ends with the key or token. The cookie is no secret
beyond the key in it; its token for forms (`Session.token`) is one that no other site can know.
"""

import hmac
import re
import secrets
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple, Self

COOKIE: Final = "chapar_session"
LARGEST: Final = 3800  # bytes of a key or token; a browser keeps cookies of 4096
RENEW_AFTER: Final = 60  # seconds after which a cookie says anew when it was used

_AHEAD: Final = 60  # seconds by which the clocks of two processes may differ
_SIGNS: Final = re.compile(r"[A-Za-z0-9._~+/=-]*")  # of a token (RFC 6750 §2.1); none of them ends a cookie
_VALUE: Final = re.compile(rf"(?P<used_at>[0-9]{{1,12}})\.(?P<nonce>[0-9a-f]{{32}})\.(?P<credential>{_SIGNS.pattern})")


class Session(NamedTuple):
    """Somebody at a browser."""

    credential: str  #: the key or token; empty: nobody has signed in
    nonce: str  #: random; the same until somebody signs in or out
    used_at: int  #: when the cookie was set, seconds since the epoch

    @classmethod
    def begin(cls, credential: str = "") -> Self:
        """A new session."""
        return cls(credential, secrets.token_hex(16), int(time.time()))

    @property
    def cookie(self) -> str:
        """The value of its cookie."""
        return f"{self.used_at}.{self.nonce}.{self.credential}"

    @property
    def token(self) -> str:
        """The secret in each of its forms, which a page of another site cannot know."""
        return hmac.new((self.nonce + self.credential).encode(), b"chapar console form", sha256).hexdigest()

    def is_over(self, idle_timeout: float) -> bool:
        """Return whether it was not used for so many seconds."""
        return not -_AHEAD <= time.time() - self.used_at < idle_timeout


def session_of(cookies: Mapping[str, str]) -> Session | None:
    """The session of a request; None where its browser has none."""
    found = _VALUE.fullmatch(cookies.get(COOKIE, ""))
    return None if found is None else Session(found["credential"], found["nonce"], int(found["used_at"]))


def can_be_kept(credential: str) -> bool:
    """Return whether a key or token fits into a cookie."""
    return len(credential) <= LARGEST and _SIGNS.fullmatch(credential) is not None
