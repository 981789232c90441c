"""The edges of the gateway in memory, for tests of what lies between: a store, a link and a clock."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import SecretStr

from chapar.errors import BrokerError, LinkDown, PublicationInvalid, StoreUnavailable
from chapar.link.publication import Publication
from chapar.model.message import Attempt, Message
from chapar.runtime.clock import Clock
from chapar.runtime.settings import Settings
from chapar.store.acceptance import Key
from chapar.store.operations import Kind
from chapar.store.reports import WAITING, Backlog
from chapar.store.schema import MUTABLE
from chapar.store.store import Store
from simulation.database import Database

EPOCH = 1_800_000_000_000  # ms
PROCESS = "0123456789abcdef"


def fake_settings(*, alone: bool = True, **settings: Any) -> Settings:
    url = "sqlite:///fake.db" if alone else "postgresql://fake/chapar"
    return Settings(database_url=SecretStr(url), **settings)


class FakeClock(Clock):
    """A clock that somebody else sets."""

    def __init__(self) -> None:
        self.at = EPOCH

    def now_ns(self) -> int:
        return self.at * 1_000_000

    def drift(self) -> int:
        return 0


class Surroundings:
    """What the model of the database needs of a simulated world: a time that stands still, and somebody to tell."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    @property
    def loop(self) -> "Surroundings":
        return self

    def time(self) -> float:
        return 0.0

    def wall_clock(self) -> int:
        return EPOCH

    def trace(self, *_: object) -> None:
        """Nobody reads it."""

    def fails(self, failure: str) -> None:
        self.failures.append(failure)


class _Commits:
    """Commits in the next turn of the loop, in the order of asking; or fails as the test says."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.failing: dict[str, Exception] = {}  # by the kind of operation
        self.refusing: dict[str, list[Exception]] = {}  # the next moves of one message, by its id
        self.asked: list[tuple[str, Any]] = []

    def submit(self, kind: Kind[Any, Any], arguments: Any, _: float | None = None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append((kind.name, arguments))
        asyncio.get_running_loop().call_soon(self._commit, kind.name, arguments, future)
        return future

    def _commit(self, kind: str, arguments: Any, future: asyncio.Future[Any]) -> None:
        error = self.failing.get(kind)
        if kind == "move" and (refusals := self.refusing.get(arguments[len(MUTABLE)])):
            error = refusals.pop(0)
        result = self._database.commit([(kind, arguments)])[0] if error is None else None
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class MemoryStore(Store):
    """The real store over the simulated database. Reads fail while `is_unreadable`."""

    def __init__(self) -> None:
        self.surroundings = Surroundings()
        self.database = Database(self.surroundings)  # type: ignore[arg-type]
        self.commits = _Commits(self.database)
        self._commits = self.commits  # type: ignore[assignment]
        self.is_unreadable = False

    def put(self, message: Message) -> Message:
        """Have a message there already, in whatever state."""
        self.database._put(None, message)
        return message

    def now(self, message: Message) -> Message:
        return self.database.messages[message.id]

    def asked(self, kind: str) -> list[Any]:
        """The arguments of all operations of a kind, in the order of asking."""
        return [arguments for name, arguments in self.commits.asked if name == kind]

    async def find(self, message_id: str) -> Message | None:
        self._read()
        return self.database.messages.get(message_id)

    async def find_all(self, ids: Sequence[str]) -> list[Message]:
        self._read()
        return [self.database.messages[id_] for id_ in ids if id_ in self.database.messages]

    async def waiting_of(self, sender: str, size: int) -> AsyncIterator[list[Message]]:
        self._read()
        sent = [row[0] for row, _, _, by in self.asked("add") if by is not None and by[0] == sender]
        found = [self.database.messages[id_] for id_ in sent]
        waiting = [message for message in found if message.status in WAITING]
        for begin in range(0, len(waiting), size):
            yield waiting[begin : begin + size]

    async def attempts(self, message_id: str) -> list[Attempt]:
        self._read()
        return [attempt for (id_, _), attempt in sorted(self.database.attempts.items()) if id_ == message_id]

    async def backlog(self) -> Backlog:
        self._read()
        return self.database.backlog()

    async def owner(self, key: tuple[str, str], at: int) -> Key | None:
        self._read()
        owner = self.database.keys.get(key)
        return owner if owner is not None and owner.kept_until > at else None

    async def is_alive(self, process: str) -> bool:
        self._read()
        return self.database.is_alive(process)

    async def check(self) -> None:
        self._read()

    def _read(self) -> None:
        if self.is_unreadable:
            raise StoreUnavailable("a test says so.")


class FakeLink:
    """A link whose answers a test gives: beforehand with `answers`, or one by one with `answer()`."""

    def __init__(self) -> None:
        self.up = True
        self.reports_subscribers = False
        self.window, self.in_flight, self.reconnects = 20, 0, 0
        self.strays = Counter[str]()
        self.broker_was_there = True
        self.unanswered: BrokerError | None = None
        self.last_error: BrokerError | None = None
        self.published: list[Publication] = []
        self.answers: deque[int | Exception] = deque()
        self.waiting: dict[str, asyncio.Future[int]] = {}
        self.heard = asyncio.Condition()

    def publish(self, publication: Publication) -> asyncio.Future[int]:
        if not self.up:
            raise LinkDown
        self.published.append(publication)
        if self.answers and isinstance(self.answers[0], PublicationInvalid):  # which a session raises at once
            raise self.answers.popleft()
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting[publication.message_id] = outcome
        if self.answers:
            self.answer(publication.message_id, self.answers.popleft())
        return outcome

    def answer(self, message_id: str, answer: int | Exception) -> None:
        outcome = self.waiting.pop(message_id)
        if isinstance(answer, Exception):
            outcome.set_exception(answer)
        else:
            outcome.set_result(answer)

    @property
    def trouble(self) -> BrokerError | None:
        return self.unanswered if self.up else self.last_error

    def take_back(self, outcome: asyncio.Future[int]) -> bool:
        """All that waits here is unsent."""
        return outcome.cancel()

    async def connected(self) -> None:
        await asyncio.Event().wait()

    @property
    def ids(self) -> list[str]:
        """The messages that were published, in their order."""
        return [publication.message_id for publication in self.published]


async def until(condition: Any) -> None:
    """Let the loop turn until a condition holds; what it waits for takes turns, never time."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")
