"""A message, the states it can be in, and the rules its device id, operation and topic must keep. No I/O."""

import json
import random
import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypedDict, Unpack

from chapar.errors import FieldInvalid, Phrase, Problem, ascii_digits

MAX_OPERATION_BYTES = 1024  # an operation's name; larger data belongs in `params`
MAX_TOPIC_BYTES = 65_535  # MQTT 5.0 §1.5.4
_LAST_TIME = (1 << 48) - 1  # a UUIDv7 has 48 bits of milliseconds
LONGEST_WAIT = 300  # seconds that a caller may wait; after that, the message is to be looked up
SHORTEST_REPLY_WITHIN = 1  # seconds
LONGEST_REPLY_WITHIN = 86_400  # seconds
DEFAULT_REPLY_WITHIN = 30  # seconds, where a caller waits for the device and does not say how long it may take
MAX_COLLAPSE_KEY = 64  # characters
MAX_TOPIC_LEVELS = 128  # Mosquitto drops the connection at 200

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Status(StrEnum):
    """The state of a message. Each step is claimed only with proof of it."""

    SCHEDULED = "scheduled"  #: Committed; its time (`deliver_at`) has not come.
    QUEUED = "queued"  #: Committed; waits for the broker or for its turn.
    PUBLISHING = "publishing"  #: Committed, its attempt counted; the PUBLISH may have left.
    PUBLISHED = "published"  #: The broker acknowledged it. Final where no reply is expected.
    ACKNOWLEDGED = "acknowledged"  #: The device said that it has it.
    SUCCEEDED = "succeeded"  #: The device reported success.
    FAILED = "failed"  #: The device reported failure.
    TIMED_OUT = "timed_out"  #: The device did not reply in time; a late reply still overrides it.
    REJECTED = "rejected"  #: The broker refused it, or could not be reached for a call that would not queue.
    UNCONFIRMED = "unconfirmed"  #: Sent at most once, and whether it arrived is unknown.
    EXPIRED = "expired"  #: Its time ran out before the broker had it.
    CANCELLED = "cancelled"  #: Withdrawn before it was sent.


ANSWERED: Final = frozenset({Status.ACKNOWLEDGED, Status.SUCCEEDED, Status.FAILED})
"""The states into which a reply of the device moves a message."""

FINAL_WORDS: Final = frozenset({Status.SUCCEEDED, Status.FAILED})
"""The states that the device's final word makes."""

MOVES: Mapping[Status, frozenset[Status]] = {
    # Unconfirmed where it was held, as it may have been sent before a backup was restored, and only once.
    Status.SCHEDULED: frozenset({Status.QUEUED, Status.EXPIRED, Status.CANCELLED, Status.UNCONFIRMED}),
    # Answered where an earlier attempt arrived after all.
    Status.QUEUED: ANSWERED
    | {
        Status.PUBLISHING,
        Status.EXPIRED,
        Status.CANCELLED,
        Status.UNCONFIRMED,
        Status.REJECTED,  # became due, and may not wait
    },
    Status.PUBLISHING: ANSWERED
    | {
        Status.PUBLISHING,  # the next attempt
        Status.QUEUED,  # given back unsent, or to be tried once more
        Status.PUBLISHED,
        Status.REJECTED,
        Status.UNCONFIRMED,
        Status.EXPIRED,
        Status.CANCELLED,  # superseded, and given back unsent
    },
    Status.PUBLISHED: ANSWERED | {Status.TIMED_OUT},
    Status.ACKNOWLEDGED: ANSWERED | {Status.TIMED_OUT},
    # The device outranks every conclusion of ours, where an attempt was made.
    Status.TIMED_OUT: ANSWERED,
    Status.REJECTED: ANSWERED,
    Status.UNCONFIRMED: ANSWERED,
    Status.EXPIRED: ANSWERED,
    Status.CANCELLED: ANSWERED,
    # The first final word stands.
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
}
"""The moves of a message; what is not listed does not happen."""

AT_BROKER = frozenset(
    {
        Status.PUBLISHED,
        Status.UNCONFIRMED,
        Status.ACKNOWLEDGED,
        Status.SUCCEEDED,
        Status.FAILED,
        Status.TIMED_OUT,
    }
)
"""The states of what the broker has, or may have: what it retains stays there until it is taken back."""

UNFINISHED = frozenset({Status.SCHEDULED, Status.QUEUED, Status.PUBLISHING})
"""The states in which the gateway still owes the message something."""

OWED = UNFINISHED | {Status.PUBLISHED, Status.ACKNOWLEDGED}
"""The states in which something may be missing yet: the broker's acknowledgement, or the device's final word."""

WAITING = (Status.SCHEDULED, Status.QUEUED)
"""The states of what waits. A message leaves the first for the second, so who looks for all of them begins there."""


class Wait(StrEnum):
    """The event that a caller waits for."""

    NONE = "none"  #: The commit: answered at once, delivered as soon as it can be.
    BROKER = "broker"  #: The broker's acknowledgement.
    DEVICE = "device"  #: The device's final word.


class Condition(StrEnum):
    """The condition of its device under which a message may be sent, beside its turn."""

    ONLINE = "online"  #: `only_if_online`: it never waits for its device.
    CONTACT = "contact"  #: `deliver: "on_contact"`: it waits until its device has just spoken.


class Profile(StrEnum):
    """The form in which a device takes commands."""

    TEXT = "text"  #: The operation's name alone; with parameters, the JSON envelope.
    CHAPAR = "chapar"  #: Always the JSON envelope, whose id the device gives back.


class Command(NamedTuple):
    """A caller's order: one operation for one device. Its text is checked already."""

    imei: str
    micro_op: str
    params: str | None = None  #: a JSON object as text
    qos: int = 1
    retain: bool = False
    at_most_once: bool = False
    expires_in: float | None = None  #: seconds from when it is due; None: the setting `default_expiry`
    deliver_at: int | None = None  #: not before this time, ms since the epoch
    wait: Wait = Wait.BROKER
    patience: float | None = None  #: seconds to wait; None: the setting `publish_timeout`
    origin: str | None = None  #: the message that it repeats
    reply_within: float | None = None  #: seconds for which a reply is awaited; None: see `reply_awaited`
    condition: Condition | None = None
    collapse_key: str | None = None  #: it withdraws what waits for its device with the same key
    urgent: bool = False  #: it leaves before all else
    purge: bool = False  #: it withdraws all that waits for its device

    @property
    def reply_awaited(self) -> float | None:
        """Return for how many seconds a reply is awaited: as asked, or because the caller waits for it."""
        is_implied = self.reply_within is None and self.wait is Wait.DEVICE
        return DEFAULT_REPLY_WITHIN if is_implied else self.reply_within


class MutableFields(TypedDict, total=False):
    """The fields that a move may change besides the status."""

    reason: str | None
    reason_code: int | None
    subscribers: bool | None
    claim: str | None
    published_at: int | None
    finished_at: int | None
    # The rest stays as it is where the first attempt succeeds, and no reply is awaited.
    attempts: int
    possible_duplicate: bool
    not_before: int | None
    reply_by: int | None
    contact_until: int | None


MUTABLE = ("status", *MutableFields.__annotations__)
"""The fields that a move may change."""


class Message(NamedTuple):
    """One operation for one device. Immutable: a step is a new value, and the store compares old and new.

    Times are milliseconds since the Unix epoch, UTC. The fields are the columns of the table `messages`, in
    their order; a default is the column's own.
    """

    id: str  #: UUIDv7 (RFC 9562), made before anything is stored
    imei: str  #: the device
    micro_op: str  #: the operation
    params: str | None  #: the operation's parameters, a JSON object as text
    topic: str  #: where it is published
    qos: int  #: 0, 1 or 2
    retain: bool  #: whether the broker keeps it for later subscribers
    at_most_once: bool  #: never sent again when the outcome of an attempt is unknown
    status: Status
    claim: str | None  #: token of the process that is moving it
    created_at: int  #: when it was accepted
    expires_at: int | None  #: not sent at or after; None: never too late
    attempts: int  #: PUBLISH packets that may have left
    possible_duplicate: bool  #: an attempt with an unknown outcome was followed by another
    # The rest a plain message has only once something has happened to it: a short row leaves it out.
    not_before: int | None = None  #: when the next attempt may be made, after the broker asked for patience
    reply_by: int | None = None  #: until when; each sign of progress moves it
    contact_until: int | None = None  #: until when a contact lets it leave; then it waits for the next one
    reason: str | None = None  #: why it ended as it did: a stable code
    reason_code: int | None = None  #: the broker's MQTT 5 reason code
    subscribers: bool | None = None  #: whether the broker had a subscriber for it; None where it does not say
    published_at: int | None = None  #: when the broker's acknowledgement came
    finished_at: int | None = None  #: when it ended, or its reply was given up; None while one is awaited
    deliver_at: int | None = None  #: not sent before; None: at once
    origin: str | None = None  #: the message that this one repeats, by `resend`
    reply_within: int | None = None  #: ms for which a reply is awaited; None: none is expected
    profile: str = Profile.TEXT.value  #: the form in which its device takes it
    condition: str | None = None  #: a `Condition`; None: it may be sent whatever its device does
    collapse_key: str | None = None  #: a newer message of its device with the same key withdraws it
    reply: str | None = None  #: the reply that stands, as JSON: the first final word, else the latest progress
    superseded_by: str | None = None  #: that newer message: it is not sent any more
    urgent: bool = False  #: it leaves before all else

    def moved(self, to: Status, **changes: Unpack[MutableFields]) -> "Message":
        """The message in the state `to`, with these changes; raises ValueError where `MOVES` does not list the move."""
        if to not in MOVES[self.status]:
            raise ValueError(f"a message does not move from {self.status} to {to}")
        values: list[object] = list(self)  # for `_replace` takes twice as long
        values[_PLACES["status"]] = to
        for name, value in changes.items():
            values[_PLACES[name]] = value
        return Message._make(values)

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly."""
        return _BESIDE_TEXTS + len(self.micro_op) + len(self.params or "") + len(self.reply or "")

    @property
    def leaves_before(self) -> int | None:
        """The time from which it must not leave, in ms since the epoch: its own end, or its window's; None: never."""
        if self.contact_until is None or self.expires_at is None:
            return self.expires_at if self.contact_until is None else self.contact_until
        return min(self.expires_at, self.contact_until)

    @property
    def clears(self) -> bool:
        """Return whether it is the empty message that makes the broker forget a retained one (see `clearing`)."""
        return not self.micro_op

    @property
    def payload(self) -> bytes:
        """Make the payload, which depends on profile and parameters alone: the operation's name, or the envelope."""
        if self.params is None and (self.profile == _TEXT or self.clears):
            return self.micro_op.encode()
        params = "null" if self.params is None else self.params
        return f'{{"id":"{self.id}","micro_op":{json.dumps(self.micro_op)},"params":{params}}}'.encode()


_TEXT: Final = Profile.TEXT.value  # as the rows have it
_BESIDE_TEXTS: Final = 600  # bytes of a message, roughly

_PLACES: Mapping[str, int] = {name: place for place, name in enumerate(Message._fields)}


def clearing(retained: Message, nanoseconds: int, due: int | None = None) -> Message:
    """The empty retained message that makes the broker forget a retained one (MQTT 5.0 §3.3.1.3), not before `due`.

    It is delivered like any other, in the order of its device, and only where the database still says that nothing
    newer is retained on the topic. No caller can ask for it: an operation has a name.
    """
    return retained._replace(
        id=new_id(nanoseconds),
        micro_op="",
        params=None,
        qos=max(1, retained.qos),
        at_most_once=False,
        status=Status.QUEUED if due is None else Status.SCHEDULED,
        reason=None,
        reason_code=None,
        attempts=0,
        possible_duplicate=False,
        subscribers=None,
        claim=None,
        created_at=nanoseconds // 1_000_000,
        deliver_at=due,
        expires_at=None,
        not_before=None,
        origin=retained.id,
        published_at=None,
        finished_at=None,
        reply_within=None,
        reply_by=None,
        reply=None,
        condition=None,
        contact_until=None,
        collapse_key=None,
        superseded_by=None,
        urgent=False,
    )


class Attempt(NamedTuple):
    """One attempt to hand a message to the broker that was not the plain first success."""

    message_id: str
    attempt: int  #: counted from 1; 0: none, but the message was taken back from the broker that retained it
    at: int  #: when its outcome was known, ms since the epoch
    process: str  #: token of the process that made it
    outcome: str  #: `published`, `link_lost`, `process_died`, `internal_error`, `retained_cleared`, or a code's name
    reason_code: int | None  #: the broker's MQTT 5 reason code


def new_id(nanoseconds: int) -> str:
    """A UUIDv7 of this time, in ns since the Unix epoch: unique everywhere, and in the order of time.

    The milliseconds are followed by their fraction to 1/4096 (RFC 9562 §6.2, method 3), so that ids made one after
    the other sort so; one index then serves look-ups, pages and ranges of time.
    """
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random.getrandbits(62)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_id(time: int) -> str:
    """Return what every id made at `time` (ms since the epoch) or later sorts behind (RFC 9562 §5.7)."""
    digits = f"{min(max(time, 0), _LAST_TIME):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def time_of(message_id: str) -> int:
    """Return when an id was made, ms since the epoch; 0 for what is none."""
    return int(message_id[:8] + message_id[9:13], 16) if _ID.fullmatch(message_id) else 0


def check_device_id(text: str, field: str = "imei") -> str:
    """Return a device id with Persian and Arabic digits folded to ASCII.

    Raises FieldInvalid unless the result is `[A-Za-z0-9._-]{1,64}`: wildcards and `/` would break out of the
    device's topic and of its ACL (CVE-2017-7650).
    """
    device_id = ascii_digits(text)
    if not _DEVICE_ID.fullmatch(device_id):
        raise FieldInvalid(field, Phrase("rule.device_id"))
    return device_id


def check_operation(text: str, field: str = "micro_op") -> str:
    """Return an operation's name unchanged; raises FieldInvalid where it is empty, too long or unprintable."""
    if not text.strip():
        raise FieldInvalid(field, Phrase("rule.empty"))
    if has_forbidden_character(text):
        raise FieldInvalid(field, Phrase("rule.unprintable"))
    if len(text.encode()) > MAX_OPERATION_BYTES:
        raise FieldInvalid(field, Phrase("rule.operation_bytes", limit=MAX_OPERATION_BYTES))
    return text


def check_collapse_key(text: str, field: str = "collapse_key") -> str:
    """Return a collapse key unchanged; raises FieldInvalid where it is empty, too long or unprintable."""
    if not text.strip():
        raise FieldInvalid(field, Phrase("rule.empty"))
    if has_forbidden_character(text):
        raise FieldInvalid(field, Phrase("rule.unprintable"))
    if len(text) > MAX_COLLAPSE_KEY:
        raise FieldInvalid(field, Phrase("rule.characters", limit=MAX_COLLAPSE_KEY))
    return text


def has_forbidden_character(text: str) -> bool:
    """Return whether `text` has what MQTT 5.0 §1.5.4 forbids or discourages: surrogates, controls, non-characters."""
    return not text.isprintable() and any(
        unicodedata.category(character) in {"Cc", "Cs"} or _is_noncharacter(ord(character)) for character in text
    )


def _is_noncharacter(code_point: int) -> bool:
    return (code_point & 0xFFFE) == 0xFFFE or 0xFDD0 <= code_point <= 0xFDEF  # noqa: PLR2004 - Unicode §23.7


def check_topic_template(template: str) -> str:
    """Return a topic template unchanged; raises Problem unless every device id makes a legal topic of it."""
    if template.count("{imei}") != 1:
        raise Problem(Phrase("topic.imei"))
    fixed = template.replace("{imei}", "")
    if any(character in fixed for character in "+#{}") or has_forbidden_character(fixed):
        raise Problem(Phrase("topic.signs"))
    if template.startswith("$"):
        raise Problem(Phrase("topic.dollar"))
    if len(template.encode()) > MAX_TOPIC_BYTES - 64 or template.count("/") >= MAX_TOPIC_LEVELS:
        raise Problem(Phrase("topic.size", levels=MAX_TOPIC_LEVELS, size=MAX_TOPIC_BYTES - 64))
    return template
