"""Firmware of a simulated device: a command in, what it does and replies out. No I/O; the same for the same seed."""

import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import JsonValue

from chapar.errors import RequestError
from chapar.model.json_text import as_json, parse
from chapar.model.message import Profile, check_operation

MOST_SEEN: Final = 16  # ids of commands that a device remembers, as the page on devices asks of firmware
_LONGEST_ID: Final = 128  # characters; those of Chapar have 36
_CAUSE: Final = "simulated"  # of each failure


class Deed(StrEnum):
    """The way in which a device treated what it received."""

    RAN = "ran"  #: It ran the command.
    FAILED = "failed"  #: It ran the command, which failed.
    REPEATED = "repeated"  #: It knew the id, ran nothing, and replies what it replied before.
    IGNORED = "ignored"  #: It was no command: empty, or not understood.


class Word(StrEnum):
    """The word of a reply about its command."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The kind of device that it is. Shares are from 0 to 1."""

    profile: Profile = Profile.TEXT
    silent: bool = False  #: it runs commands, and never replies
    delay: float = 0.0  #: seconds from a command to its final reply
    progress: int = 0  #: replies `running` before that, in equal gaps from the command on
    failures: float = 0.0  #: share of the commands that fail
    duplicates: float = 0.0  #: share of the final replies that are sent twice
    away: float = 0.0  #: share of the time that it has no connection
    spell: float = 30.0  #: seconds that it is away at a time, on average
    seed: int = 0


class Received(NamedTuple):
    """A message as it arrived at a device."""

    payload: bytes
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


class Reply(NamedTuple):
    """A reply of a device, and how long after its command it is due."""

    delay: float  #: seconds
    word: Word
    payload: bytes
    id: str | None
    correlation_data: bytes | None


class Reaction(NamedTuple):
    """The deed of a device about one message, and its replies."""

    deed: Deed
    id: str | None = None  #: of the command, where it had one
    operation: str | None = None  #: None where nothing was understood
    replies: tuple[Reply, ...] = ()


class Firmware:
    """One device. It runs each command once, as far as its memory of ids goes.

    >>> Firmware("pump-7").receive(Received(b"push_down")).replies[0].payload
    b'push_down ok'
    """

    def __init__(self, device: str, behaviour: Behaviour | None = None) -> None:
        self._device = device
        self._behaviour = behaviour or Behaviour()
        self._seen: OrderedDict[str, Word] = OrderedDict()  # by id, oldest first: how the command ended
        self._ran = 0  # commands so far

    def receive(self, received: Received) -> Reaction:
        """Take what arrived. The chances of a command depend on the seed, the device, and how many it ran before."""
        command = _read(received)
        if command is None:
            return Reaction(Deed.IGNORED)
        if command.id is not None and command.id in self._seen:
            word = self._seen[command.id]
            return Reaction(Deed.REPEATED, command.id, command.operation, self._replies(command, [word]))
        chance = self._chance(f"command {self._ran}")
        self._ran += 1
        word = Word.FAILED if chance.random() < self._behaviour.failures else Word.OK
        finals = 2 if chance.random() < self._behaviour.duplicates else 1
        if command.id is not None:
            self._seen[command.id] = word
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        words = [Word.RUNNING] * self._behaviour.progress + [word] * finals
        deed = Deed.FAILED if word is Word.FAILED else Deed.RAN
        return Reaction(deed, command.id, command.operation, self._replies(command, words))

    def spells(self) -> Iterator[tuple[float, float]]:
        """Give how long it is connected, and then away, in seconds, again and again; nothing where it is never away."""
        away, spell = self._behaviour.away, self._behaviour.spell
        chance = self._chance("spells")
        while away:
            yield chance.expovariate(away / (spell * (1 - away))), chance.expovariate(1 / spell)

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self._behaviour.seed} {self._device} {what}")  # noqa: S311 - to be repeatable

    def _replies(self, command: "_Command", words: list[Word]) -> tuple[Reply, ...]:
        if self._behaviour.silent:
            return ()
        delay, progress = self._behaviour.delay, words.count(Word.RUNNING)
        return tuple(
            Reply(
                delay * number / progress if word is Word.RUNNING else delay,
                word,
                self._payload(command, word),
                command.id,
                command.correlation_data,
            )
            for number, word in enumerate(words)
        )

    def _payload(self, command: "_Command", word: Word) -> bytes:
        if self._behaviour.profile is Profile.TEXT:
            cause = f": {_CAUSE}" if word is Word.FAILED else ""
            return f"{command.operation} {word}{cause}".encode()
        body = {"id": command.id} if command.id is not None else {}
        body |= {"status": word.value, "micro_op": command.operation}
        return as_json(body | {"result": _CAUSE} if word is Word.FAILED else body)


class _Command(NamedTuple):
    """A command as it was understood."""

    operation: str
    id: str | None
    correlation_data: bytes | None


def _read(received: Received) -> _Command | None:
    """The command in what arrived; None where there is none."""
    try:
        operation, command_id = _fields(received)
        if not isinstance(operation, str) or not isinstance(command_id, str | None):
            return None
        check_operation(operation)
    except (RequestError, UnicodeDecodeError):
        return None
    if command_id is not None and len(command_id) > _LONGEST_ID:
        return None
    return _Command(operation, command_id, received.correlation_data)


def _fields(received: Received) -> tuple[JsonValue, JsonValue]:
    """The operation and the id, of whatever type they are: of the JSON envelope, else the payload and the property."""
    message_id = dict(received.user_properties).get("message-id")
    if not received.payload.startswith(b"{"):
        return received.payload.decode(), message_id
    envelope = parse(received.payload)
    if not isinstance(envelope, dict) or "status" in envelope:  # a reply, where both have one topic
        return None, None
    return envelope.get("micro_op"), envelope.get("id", message_id)
