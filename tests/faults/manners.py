"""The manners of devices: what each replies to a command, which its number decides."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

LATE: Final = 2.5  # seconds until a device replies that is late; longer than callers say that they wait
_AT_ONCE: Final = 0.6  # share of the replies that do not keep the gateway waiting
_LONGEST: Final = 0.4  # seconds that the others take

Way = Literal["correlation", "id", "order", "none"]
"""How the gateway is to find the message of a reply; with `none`, it must not."""


class Command(NamedTuple):
    """A command as its device received it."""

    number: int
    imei: str
    id: str

    @property
    def micro_op(self) -> str:
        return f"n-{self.number}"


class Reply(NamedTuple):
    """A reply, and when it is due."""

    delay: float  #: seconds after the command
    imei: str  #: on whose topic
    way: Way
    status: str  #: of the message, once the gateway has it
    payload: bytes
    word: str | None = None  #: the user property `status`
    correlates: bool = False  #: whether it carries the command's correlation data


_Manner = Callable[[Command, random.Random], list[Reply]]


def replies_to(command: Command) -> Sequence[Reply]:
    """What the device replies, the same at each attempt."""
    kind = command.imei.partition("-")[0]
    manners = _MANNERS_OF.get(kind)
    if manners is None:
        return ()
    chance = random.Random(command.number)
    manner = chance.choices(list(manners), list(manners.values()))[0]
    return manner(command, chance)


def _delay(chance: random.Random) -> float:
    return 0.0 if chance.random() < _AT_ONCE else chance.uniform(0.0, _LONGEST)


def _reply(command: Command, chance: random.Random, status: str, part: int = 0, delay: float = 0.0) -> Reply:
    """A reply in one of the forms in which a gateway finds its message for sure; `part` makes it differ from others."""
    word = {"succeeded": "ok", "failed": "failed", "acknowledged": "running"}[status]
    result = {"micro_op": command.micro_op, "part": part}
    plain = f"part {part} of {command.micro_op}".encode()  # no word behind the operation's name
    forms: list[Reply] = [
        Reply(delay, command.imei, "id", status, _json(id=command.id, status=word, result=result)),
        Reply(delay, command.imei, "correlation", status, _json(status=word, result=result), correlates=True),
        Reply(delay, command.imei, "correlation", status, b"\0\xff" + plain, word=word, correlates=True),
    ]
    if status == "succeeded":
        forms.append(Reply(delay, command.imei, "correlation", status, plain, correlates=True))
    return chance.choice(forms)


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _succeeds(command: Command, chance: random.Random) -> list[Reply]:
    return [_reply(command, chance, "succeeded", delay=_delay(chance))]


def _fails(command: Command, chance: random.Random) -> list[Reply]:
    return [_reply(command, chance, "failed", delay=_delay(chance))]


def _progresses(command: Command, chance: random.Random) -> list[Reply]:
    first, second = sorted(_delay(chance) for _ in range(2))
    return [
        _reply(command, chance, "acknowledged", 0, first),
        _reply(command, chance, "succeeded", 1, second),
    ]


def _says_it_twice(command: Command, chance: random.Random) -> list[Reply]:
    [reply] = _succeeds(command, chance)
    return [reply, reply._replace(delay=reply.delay + _delay(chance))]


def _contradicts_itself(command: Command, chance: random.Random) -> list[Reply]:
    first, second = sorted(_delay(chance) for _ in range(2))
    words = ["succeeded", "failed"]
    chance.shuffle(words)
    return [
        _reply(command, chance, words[0], 0, first),
        _reply(command, chance, words[1], 1, second),
    ]


def _is_late(command: Command, chance: random.Random) -> list[Reply]:
    return [_reply(command, chance, chance.choice(["succeeded", "failed"]), delay=LATE)]


def _only_progresses(command: Command, chance: random.Random) -> list[Reply]:
    return [_reply(command, chance, "acknowledged", delay=_delay(chance))]


def _is_silent(_command: Command, _chance: random.Random) -> list[Reply]:
    return []


def _is_mistaken(command: Command, chance: random.Random) -> list[Reply]:
    """Another device replies with this one's id, and then this one itself."""
    foreign = _json(id=command.id, status="failed", result={"micro_op": command.micro_op, "part": 9})
    [own] = _succeeds(command, chance)
    return [Reply(own.delay, f"foreign-{command.number % 50}", "none", "", foreign), own]


def _talks_nonsense(command: Command, chance: random.Random) -> list[Reply]:
    """Bytes that name no message, and then a reply."""
    nonsense = chance.choice([b"\xfe\xff", b"[" * 500, b'{"status":', b"\x1b[2J", "\u202e".encode()])
    [own] = _succeeds(command, chance)
    return [Reply(own.delay, command.imei, "none", "", nonsense + command.micro_op.encode()), own]


def _says_the_operation(command: Command, chance: random.Random) -> list[Reply]:
    status = chance.choice(["succeeded", "succeeded", "failed"])
    text = f"{command.micro_op} ok" if status == "succeeded" else f"{command.micro_op} failed: dry"
    return [Reply(_delay(chance), command.imei, "order", status, text.encode())]


_ALL: Final[Mapping[_Manner, int]] = {
    _succeeds: 46,
    _fails: 10,
    _progresses: 10,
    _says_it_twice: 8,
    _contradicts_itself: 8,
    _is_late: 4,
    _only_progresses: 2,
    _is_silent: 2,
    _is_mistaken: 5,
    _talks_nonsense: 5,
}
_IN_TIME: Final[Mapping[_Manner, int]] = {_succeeds: 6, _fails: 1, _is_silent: 3}
_MANNERS_OF: Final[Mapping[str, Mapping[_Manner, int]]] = {
    "device": _ALL,
    "reply": _ALL,
    "order": {_says_the_operation: 1},
    "collapse": _IN_TIME,
    "contact": _IN_TIME,
}
"""How often each manner is met, by what the device's id begins with; other devices never reply."""
