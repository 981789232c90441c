"""The edges of the gateway in memory, for tests of what lies between: a store, a link and a clock."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import SecretStr
from sqlalchemy import Connection

from chapar.delivery.counters import Counters
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.lease import ProcessLease
from chapar.delivery.waiting import Waiters
from chapar.errors import BrokerError, LinkDown, StoreUnavailable, TakenBack
from chapar.link.answers import Answers
from chapar.link.publication import Publication
from chapar.link.topics import DeviceTopics
from chapar.model.message import UNFINISHED, Message
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store.changes import Changes
from chapar.store.commits import Commits
from chapar.store.moves import MOVE
from chapar.store.operations import Kind
from chapar.store.readers import Readers
from chapar.store.store import Store
from support.memory_database import MemoryDatabase

Result = TypeVar("Result")

EPOCH = 1_800_000_000_000  # ms
PROCESS = "0123456789abcdef"
LEASE = 30.0  # seconds


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


class _Commits:
    """Commits in the next turn of the loop, in the order of asking; or fails as the test says."""

    gone = None
    is_saving = True

    def __init__(self, database: MemoryDatabase, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self.failing: dict[str, Exception] = {}  # by the kind of operation
        self.refusing: dict[str, list[Exception]] = {}  # the next moves of one message, by its id
        self.alone: set[str] = set()  # kinds of which an item fails alone, in the list of results
        self.asked: list[tuple[str, Any]] = []

    one = Commits.one

    def submit(
        self, kind: Kind[Any, Any], arguments: Sequence[Any], _: float | None = None
    ) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not arguments:
            future.set_result([])
            return future
        self.asked += [(kind.name, each) for each in arguments]
        asyncio.get_running_loop().call_soon(self._commit, kind, arguments, future)
        return future

    def _commit(self, kind: Kind[Any, Any], arguments: Sequence[Any], future: asyncio.Future[list[Any]]) -> None:
        error = self.failing.get(kind.name)
        if kind is MOVE and (refusals := self.refusing.get(arguments[0].after.id)):
            error = refusals.pop(0)
        if error is not None and kind.name in self.alone:
            future.set_result([error] * len(arguments))
        elif error is None:
            results = self._database.ask(*((kind.name, each) for each in arguments))
            if not future.done():
                future.set_result(results)
            if self._changes.has_listeners and kind.changes is not None:
                changed = [change for pair in zip(arguments, results, strict=True) for change in kind.changes(*pair)]
                asyncio.get_running_loop().call_soon(self._changes.announce, changed)
        elif not future.done():
            future.set_exception(error)


class _Readers(Readers):
    """Reads at once; or fails while the test says so."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self.failing = False

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        if self.failing:
            raise StoreUnavailable("a test says so.")
        return self._database.read(query)


class MemoryStore:
    """The real store over a database in memory, and what a test does to it."""

    def __init__(self) -> None:
        self.database = MemoryDatabase(lambda: EPOCH)
        self.changes = Changes()
        self.commits = _Commits(self.database, self.changes)
        self.readers = _Readers(self.database)
        commits: Any = self.commits
        for subject, part in Store.over(commits, self.readers, self.readers, self.changes)._asdict().items():
            setattr(self, subject, part)

    def put(self, message: Message) -> Message:
        """Have a message there, in whatever state, whether it was there before or not."""
        self.database.put(message)
        return message

    def now(self, message: Message) -> Message:
        [now] = [each for each in self.database.messages() if each.id == message.id]
        return now

    def has_unfinished(self) -> bool:
        return any(message.status in UNFINISHED for message in self.database.messages())

    def asked(self, kind: str) -> list[Any]:
        """The arguments of all operations of a kind, in the order of asking."""
        return [arguments for name, arguments in self.commits.asked if name == kind]


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
        self.waiting: dict[str, tuple[Publication, Answers]] = {}
        self.heard = asyncio.Condition()

    def publish(self, publications: Sequence[Publication]) -> Answers:
        if not self.up:
            return Answers.alike(publications, LinkDown())
        answers = Answers(len(publications))
        for publication in publications:
            self.published.append(publication)
            self.waiting[publication.message_id] = publication, answers
            if self.answers:
                self.answer(publication.message_id, self.answers.popleft())
        return answers

    def answer(self, message_id: str, answer: int | Exception) -> None:
        publication, answers = self.waiting.pop(message_id)
        answers.add(publication, answer)

    @property
    def trouble(self) -> BrokerError | None:
        return self.unanswered if self.up else self.last_error

    def take_back(self, message_id: str) -> bool:
        """All that waits here is unsent."""
        if message_id in self.waiting:
            self.answer(message_id, TakenBack())
            return True
        return False

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


REPLY_TOPICS = DeviceTopics("devices/{imei}/reply")


def dispatcher_of(
    store: MemoryStore, link: FakeLink, clock: FakeClock, *, alone: bool = True, clears_expired: bool = True
) -> tuple[Dispatcher, Waiters, Metrics]:
    """A dispatcher between these edges, who waits for it, and what is counted; all hear what changes."""
    edges: Any = (store, link)
    metrics = Metrics()
    lease = ProcessLease(store.queue, clock, PROCESS, LEASE, alone=alone)
    waiters = Waiters(store.messages)
    dispatcher = Dispatcher(
        *edges, lease, waiters, clock, metrics, reply_topics=REPLY_TOPICS, clears_expired=clears_expired
    )
    for listener in (waiters.received, dispatcher.received, Counters(metrics).received):
        store.changes.listen(listener)
    return dispatcher, waiters, metrics
