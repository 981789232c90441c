"""Callers and their rights: scopes, and the devices and operations within reach. No I/O."""

import fnmatch
import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from chapar.errors import FieldInvalid, Phrase, ascii_digits
from chapar.model.lines import plain

MAX_PATTERNS: Final = 100  # of one list: each narrows every report
MAX_PATTERN_LENGTH: Final = 256  # characters
DEVICE_PATTERN: Final = re.compile(r"[A-Za-z0-9._*?-]+")


class Scope(StrEnum):
    """A right of a caller."""

    SEND = "messages:send"  #: Send messages, one by one, in bulk, or once more.
    READ = "messages:read"  #: See messages, reports and counts.
    CANCEL = "messages:cancel"  #: Withdraw messages that wait.
    URGENT = "messages:urgent"  #: Send messages that leave before all others.
    DEVICES_READ = "devices:read"  #: See devices, and whether they are there.
    DEVICES_WRITE = "devices:write"  #: Register, describe and forget devices, and withdraw all that waits for one.
    KEYS = "keys:write"  #: Make, list, limit and revoke API keys; none with more rights than the caller's own.
    AUDIT = "audit:read"  #: See who did what.
    METRICS = "metrics:read"  #: Read the measurements.


EVERY_SCOPE: Final = frozenset(Scope)
EVERYTHING: Final = ("*",)


class Reach(NamedTuple):
    """The devices and operations that somebody may see and command: those that fit any pattern of each list.

    A pattern is a name in which `*` stands for any characters and `?` for any one.
    """

    devices: tuple[str, ...] = EVERYTHING
    operations: tuple[str, ...] = EVERYTHING

    def covers(self, imei: str, micro_op: str) -> bool:
        """Return whether this operation of this device is within reach."""
        return self.covers_device(imei) and self.covers_operation(micro_op)

    def covers_device(self, imei: str) -> bool:
        """Return whether a device is within reach, with any of its operations."""
        return _fits(self.devices, imei)

    def covers_operation(self, micro_op: str) -> bool:
        """Return whether an operation is within reach, of any of its devices."""
        return _fits(self.operations, micro_op)

    def includes(self, other: "Reach") -> bool:
        """Return whether `other` is certain to reach no further: each of its patterns is one of ours."""
        return all(ours == EVERYTHING or set(theirs) <= set(ours) for ours, theirs in zip(self, other, strict=True))


EVERYWHERE: Final = Reach()


class Principal(NamedTuple):
    """Somebody who may call: the holder of a key or a token, or anybody where access is open."""

    id: str  #: unique: `key:…`, `jwt:…`, or empty for anybody
    name: str  #: for people
    scopes: frozenset[Scope]
    reach: Reach = EVERYWHERE
    ends_at: int | None = None  #: when its key or token ends, ms since the epoch; nothing it gives away lasts longer


class Caller(NamedTuple):
    """The maker of one request, and its address."""

    principal: Principal
    address: str  #: the client's IP address, or how else it came


ANYBODY: Final = Principal("", "anybody", EVERY_SCOPE)
"""Whoever calls while access is open."""

NOBODY: Final = Principal("", "nobody", frozenset())
"""Whoever calls without a credential while access is closed."""


def principal_id(text: str) -> str:
    """The principal that is meant: the id of a key is read in either case."""
    lower = text.lower()
    return lower if lower.startswith("key:") else text


def check_patterns(patterns: Iterable[str], field: str) -> tuple[str, ...]:
    """The patterns of one list, sorted, each once; `*` alone where nothing is narrowed. Raises FieldInvalid."""
    given = [ascii_digits(pattern) for pattern in patterns] if field == "devices" else list(patterns)
    found = sorted(set(given))
    allowed = DEVICE_PATTERN if field == "devices" else None
    if not 0 < len(given) <= MAX_PATTERNS:
        raise FieldInvalid(field, Phrase("rule.pattern_count", limit=MAX_PATTERNS))
    for pattern in found:
        fits = pattern == plain(pattern) if allowed is None else allowed.fullmatch(pattern) is not None
        if not (fits and 0 < len(pattern) <= MAX_PATTERN_LENGTH):
            raise FieldInvalid(field, Phrase("rule.patterns"))
    return EVERYTHING if "*" in found else tuple(found)


def _fits(patterns: tuple[str, ...], name: str) -> bool:
    return patterns == EVERYTHING or _compiled(patterns).fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # fnmatch's expressions take each part where it first fits and never go back: with `.*` alone, a name of 60
    # characters kept a pattern of seven stars busy for 20 seconds. What it gives a meaning beyond ours is quoted.
    return re.compile("|".join(fnmatch.translate(pattern.replace("[", "[[]")) for pattern in patterns))
