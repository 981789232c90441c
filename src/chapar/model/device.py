"""A device, and its presence as a function of stored evidence and the clock. No I/O."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from chapar.errors import FieldInvalid, Phrase
from chapar.model.lines import plain
from chapar.model.message import Profile
from chapar.model.principal import EVERYWHERE, Reach

GRACE: Final = 15_000
"""Milliseconds until a live `offline` is believed: a device that changes its network announces itself first, and the
will of its old connection arrives behind that."""

STALE_AFTER: Final = 30_000  # ms for which presences may have changed unnoticed before they are called stale

MAX_NAME: Final = 100  # characters of a device's name
MAX_NOTE: Final = 200  # characters of why a queue is paused
MAX_LABELS: Final = 16  # of one device
MAX_LABEL_NAME: Final = 64  # characters
MAX_LABEL_VALUE: Final = 128  # characters

_LONGEST_WORD: Final = 64  # bytes; what is longer is no word
_BLANKS: Final = b" \t\r\n\v\f\0"  # and the end of a text in C, which firmware likes to send along


class State(StrEnum):
    """The presence of a device."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"  #: It never announced itself, or its presence topic was emptied.


class Ground(StrEnum):
    """The ground on which a presence is believed."""

    ANNOUNCED = "announced"  #: The device, or the broker for it, said so while the gateway listened.
    RETAINED = "retained"  #: The presence topic held it when the gateway subscribed.
    SPOKE = "spoke"  #: The device published something after what its presence topic had said.


class Word(StrEnum):
    """The meaning of what is published on a presence topic."""

    ONLINE = "online"
    OFFLINE = "offline"
    FORGOTTEN = "forgotten"  #: Empty: nothing is retained there any more.
    SIGN_OF_LIFE = "sign_of_life"  #: Anything else, and whatever a device publishes elsewhere.


_WORDS: Final[Mapping[bytes, Word]] = {b"online": Word.ONLINE, b"offline": Word.OFFLINE}
_RETAINED: Final[Mapping[Word, State]] = {Word.ONLINE: State.ONLINE, Word.OFFLINE: State.OFFLINE}


class Device(NamedTuple):
    """A registered device. The fields are the columns of the table, in their order."""

    imei: str
    name: str | None  #: for people
    profile: str | None  #: None: the setting `default_profile`
    labels: Mapping[str, str]
    created_at: int  #: when it was registered, ms since the epoch


class Edit(NamedTuple):
    """A change to what is said of a device; the rest stays. Its text is checked already."""

    imei: str
    fields: Mapping[str, str | None]  #: `name` and `profile`, as far as they are named
    labels: Mapping[str, str | None]  #: those that are named; None: it is removed
    keeps_labels: bool = True  #: whether labels that are not named stay

    def of(self, before: Device | None, at: int) -> Device:
        """The device as it is described then; `before`: as it was, None where it is registered `at` this time."""
        device = before or Device(self.imei, None, None, {}, at)
        labels = {**(device.labels if self.keeps_labels else {}), **self.labels}
        kept = {name: value for name, value in sorted(labels.items()) if value is not None}
        name, profile = (self.fields.get(field, getattr(device, field)) for field in ("name", "profile"))
        return device._replace(name=name, profile=profile, labels=kept)


class Evidence(NamedTuple):
    """Knowledge of a device's presence, as it is stored. The fields are the columns of the table, in their order."""

    state: State  #: until the `offline` of `offline_at` is believed
    since: int  #: ms since the epoch
    evidence: Ground
    offline_at: int | None  #: when a live `offline` arrived behind which the device has not spoken


class Presence(NamedTuple):
    """The presence of a device at one moment."""

    state: State
    since: int | None  #: ms since the epoch; None: unknown
    evidence: Ground | None  #: None: unknown
    stale: bool  #: it may have changed unnoticed


class PresenceCounts(NamedTuple):
    """The number of devices in each state at one moment."""

    counts: Mapping[State, int]  #: of every state
    stale: bool  #: they may have changed unnoticed


class Pause(NamedTuple):
    """A pause of a device's queue: nothing leaves for the device."""

    since: int  #: ms since the epoch
    by: str  #: who paused it, for people
    note: str | None  #: why, as they said


class DeviceQueue(NamedTuple):
    """The unfinished messages of a device."""

    depth: int
    oldest: int | None  #: when the first of them was accepted, ms since the epoch
    pause: Pause | None = None  #: the one that stands


class QueueState(NamedTuple):
    """The queue of one device, and what of it is on its way."""

    queue: DeviceQueue
    in_flight: list[str]  #: ids of what the broker may have been sent, and has not acknowledged; the first of many


class KnownDevice(NamedTuple):
    """All that is known of a device at one moment."""

    device: Device
    presence: Presence
    last_seen: int | None  #: when it last said anything, ms since the epoch; None: never
    queue: DeviceQueue


class DeviceFilters(NamedTuple):
    """Conditions on devices: those are meant that fit everything that is given."""

    state: State | None = None
    profile: str | None = None
    default_profile: str = Profile.TEXT.value  #: of devices without one of their own
    labels: tuple[tuple[str, str], ...] = ()  #: names and values
    text: str | None = None  #: part of its id or of its name
    imeis: tuple[str, ...] | None = None  #: some of these
    reach: Reach = EVERYWHERE


class DevicePage(NamedTuple):
    """Some of the devices that fit, in the order of their ids."""

    devices: list[KnownDevice]
    next: str | None  #: behind which the next page begins; None: nothing follows


class Registration(StrEnum):
    """The end of registering a device."""

    MADE = "made"
    CHANGED = "changed"  #: It was registered before, and is described anew.
    UNCHANGED = "unchanged"  #: It was described so before.
    NO_ROOM = "no_room"  #: As many are registered as may be.
    LABELS_EXHAUSTED = "labels_exhausted"  #: With those that stay, it would have more labels than a device may have.


def registration(before: Device | None, after: Device, room: int) -> Registration:
    """The end of describing a device so, where there is room for so many more."""
    if len(after.labels) > MAX_LABELS:
        return Registration.LABELS_EXHAUSTED
    if before is None:
        return Registration.MADE if room > 0 else Registration.NO_ROOM
    return Registration.UNCHANGED if before == after else Registration.CHANGED


def read_word(payload: bytes) -> Word:
    """Read what a presence topic says: `online` or `offline` in any case, with blanks around it or without."""
    if not payload:
        return Word.FORGOTTEN
    if len(payload) > _LONGEST_WORD:
        return Word.SIGN_OF_LIFE
    return _WORDS.get(payload.strip(_BLANKS).lower(), Word.SIGN_OF_LIFE)


def after_live(before: Evidence | None, word: Word, at: int) -> Evidence | None:
    """The evidence after a device, or the broker with its will, published a word; None: nothing is known any more.

    What changes nothing gives `before` itself.
    """
    match word:
        case Word.FORGOTTEN:
            return None
        case Word.ONLINE:
            return _online(before, Ground.ANNOUNCED, at)
        case Word.OFFLINE:
            return _after_offline(before, at)
        case Word.SIGN_OF_LIFE:
            return _after_sign_of_life(before, at)
        case never:
            assert_never(never)


def after_retained(before: Evidence | None, word: Word, at: int) -> Evidence | None:
    """The evidence after a subscription found a word retained: it says what the topic last held, and nothing of now.

    What changes nothing gives `before` itself.
    """
    state = _RETAINED.get(word)
    if state is None or (before is not None and _believed(before, at) is state):
        return before
    return Evidence(state, at, Ground.RETAINED, None)


def settled(evidence: Evidence, at: int) -> Evidence:
    """The same evidence, in which an `offline` that is believed by now is the state. Where none is, `evidence` itself.

    Whatever is asked of the two has the same answer.
    """
    if evidence.offline_at is None or _believed(evidence, at) is evidence.state:
        return evidence
    return Evidence(State.OFFLINE, evidence.offline_at, Ground.ANNOUNCED, None)


def presence(evidence: Evidence | None, now: int, life_down_since: int | None) -> Presence:
    """The presence of a device at the time `now`, with the `life` link down since then, or up."""
    stale = life_down_since is not None and now - life_down_since >= STALE_AFTER
    state = State.UNKNOWN if evidence is None else _believed(evidence, now)
    if evidence is None or state is State.UNKNOWN:
        return Presence(State.UNKNOWN, None, None, stale)
    if state is not evidence.state:
        return Presence(state, evidence.offline_at, Ground.ANNOUNCED, stale)
    return Presence(state, evidence.since, evidence.evidence, stale)


def _believed(evidence: Evidence, at: int) -> State:
    """The state that is believed at a time; a clock that was set back since ends the grace, too."""
    if evidence.offline_at is None or abs(at - evidence.offline_at) < GRACE:
        return evidence.state
    return State.OFFLINE


def _online(before: Evidence | None, ground: Ground, at: int) -> Evidence:
    is_online = before is not None and _believed(before, at) is State.ONLINE
    after = Evidence(State.ONLINE, before.since if before is not None and is_online else at, ground, None)
    return before if before is not None and before == after else after


def _after_offline(before: Evidence | None, at: int) -> Evidence:
    if before is None:
        return Evidence(State.UNKNOWN, at, Ground.ANNOUNCED, at)
    if before.state is State.OFFLINE:
        return before if before.evidence is Ground.ANNOUNCED else before._replace(evidence=Ground.ANNOUNCED)
    return before if before.offline_at is not None else before._replace(offline_at=at)


def _after_sign_of_life(before: Evidence | None, at: int) -> Evidence | None:
    if before is None:
        return None
    says_more = before.state is not State.ONLINE or before.offline_at is not None or before.evidence is Ground.RETAINED
    return _online(before, Ground.SPOKE, at) if says_more else before


def check_name(text: str, field: str = "name") -> str:
    """Return a device's name without the blanks around it; raises FieldInvalid."""
    if not 0 < len(text.strip()) <= MAX_NAME or text != plain(text):
        raise FieldInvalid(field, Phrase("rule.name", limit=MAX_NAME))
    return text.strip()


def check_note(text: str, field: str = "reason") -> str:
    """Return why a queue is paused without the blanks around it; raises FieldInvalid."""
    if not 0 < len(text.strip()) <= MAX_NOTE or text != plain(text):
        raise FieldInvalid(field, Phrase("rule.name", limit=MAX_NOTE))
    return text.strip()


def check_labels(labels: Mapping[str, str], field: str = "labels") -> dict[str, str]:
    """Return labels in the order of their names; raises FieldInvalid."""
    if len(labels) > MAX_LABELS:
        raise FieldInvalid(field, Phrase("rule.label_count", limit=MAX_LABELS))
    for name, value in labels.items():
        check_label(name, value, field)
    return dict(sorted(labels.items()))


def check_label(name: str, value: str, field: str = "labels") -> None:
    """Raise FieldInvalid unless a label may be called so and have this value."""
    if not _is_label(name, value):
        raise FieldInvalid(field, Phrase("rule.labels", name=MAX_LABEL_NAME, value=MAX_LABEL_VALUE))


def read_label(text: str, field: str = "label") -> tuple[str, str]:
    """The name and value of the label that `name:value` means; raises FieldInvalid."""
    name, colon, value = text.partition(":")
    if not (colon and _is_label(name, value)):
        raise FieldInvalid(field, Phrase("rule.label"))
    return name, value


def _is_label(name: str, value: str) -> bool:
    return (
        0 < len(name) <= MAX_LABEL_NAME
        and len(value) <= MAX_LABEL_VALUE
        and ":" not in name
        and plain(name + value) == name + value
    )
