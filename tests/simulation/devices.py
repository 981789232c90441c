"""The devices of one world: what each makes of a command, and what it says of it."""

import json
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from chapar.link.publication import Publication
from chapar.model.message import Status

if TYPE_CHECKING:
    from simulation.world import World

_WORDS: Final = {"running": Status.ACKNOWLEDGED, "ok": Status.SUCCEEDED, "failed": Status.FAILED}
_WAYS: Final = ("correlation", "correlation", "json", "text", "silent")
_ANSWERS: Final = (
    ("ok",),
    ("ok",),
    ("failed",),
    ("running", "ok"),
    ("ok", "ok"),
    ("ok", "failed"),
    ("running",),
    (),
)


class Word(NamedTuple):
    """What a device said of a message, as the broker keeps it for the gateway."""

    at: float  #: loop time
    message_id: str
    status: Status
    by_order: bool  #: whether it does not name the message


class Devices:
    """Devices that answer, each in a way of its own: naming the message, or by the order of their replies alone."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ways: dict[str, str] = {}  # by device
        self.thinking = 0  #: answers that are yet to come
        self.words: list[Word] = []
        self.contacts: list[tuple[float, str]] = []  # when, and which device spoke

    def way_of(self, imei: str) -> str:
        """The way in which a device answers."""
        return self._ways.setdefault(imei, self._world.plan.choice(_WAYS))

    def receive(self, publication: Publication) -> None:
        """A command reached its device, which answers in a while."""
        imei = publication.topic.removeprefix("devices/")
        way = self.way_of(imei)
        if way == "silent" or not publication.payload:
            return
        delay = 0.0
        for word in self._world.chaos.choice(_ANSWERS):
            delay += self._world.chaos.choice([0.0, 0.01, 0.3, 2.5])
            self.thinking += 1
            self._world.loop.call_later(delay, partial(self._say, imei, way, publication, word))

    def speak(self, imei: str) -> None:
        """A device shows that it is there, or the broker says that it is not."""
        said = self._world.chaos.choice([b"online", b"hello", b"offline"])
        self._world.trace(imei, "announces", said.decode())
        if said != b"offline":
            self.contacts.append((self._world.loop.time(), imei))
        self._world.broker.pass_on(f"devices/{imei}/presence", said, None)

    def _say(self, imei: str, way: str, publication: Publication, word: str) -> None:
        self.thinking -= 1
        message_id = publication.message_id
        fields = {"status": word, **({"id": message_id} if way == "json" else {})}
        payload = b"%s %s" % (publication.payload, word.encode()) if way == "text" else json.dumps(fields).encode()
        correlation = message_id.encode() if way == "correlation" else None
        self._world.trace(imei, "says", payload.decode())
        self.contacts.append((self._world.loop.time(), imei))
        if self._world.broker.pass_on(f"devices/{imei}/reply", payload, correlation):
            said = Word(self._world.loop.time(), message_id, _WORDS[word], by_order=way == "text")
            self.words.append(said)
