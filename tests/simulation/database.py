"""The real store of one world, over SQLite in memory: its writer and its readers, which fail as the weather says."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sqlalchemy import Connection

from chapar.errors import StoreUnavailable
from chapar.model.message import MOVES, Message
from chapar.runtime.metrics import Metrics
from chapar.store import change_log, writer
from chapar.store.api_keys import ApiKeys
from chapar.store.change_log import ChangeLog
from chapar.store.changes import Changes
from chapar.store.commits import Commits
from chapar.store.health import Health
from chapar.store.kinds import KINDS
from chapar.store.readers import Readers
from chapar.store.store import Store
from chapar.store.wire import LENGTH, unpack
from chapar.store.writer import Answer, Batch
from simulation.place import here
from support.memory_database import WatchedDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from simulation.world import Process, World

Result = TypeVar("Result")

_READ_EVERY: Final = 0.1  # seconds between reads of the log of changes


class Change(NamedTuple):
    """A message that was added (`before` is None) or moved."""

    at: float  #: loop time
    before: Message | None
    after: Message


class Database(WatchedDatabase):
    """What is committed, and how it came to be."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.wall_clock)
        self._world = world
        self.changes: list[Change] = []

    def changed(self, before: Message | None, after: Message) -> None:
        if before is not None and before.status is not after.status and after.status not in MOVES[before.status]:
            self._world.fails(f"{after.id} moved from {before.status} to {after.status}, which MOVES does not list")
        self.changes.append(Change(self._world.loop.time(), before, after))
        self._world.trace("database", after.id, before.status if before else "new", after.status, after)


class WriterProcess:
    """One life of a gateway's writer. It takes its time, and in bad weather it fails in every way there is."""

    def __init__(self, process: "Process", commits: Commits) -> None:
        self._process = process
        self._world = process.world
        self._commits = commits
        self._batch: Batch | None = None
        self._applied = False

    def is_closing(self) -> bool:
        """A batch that comes too late is lost with its writer."""
        return False

    def write(self, frame: bytes) -> None:
        """Take a batch; its answer comes later, and never to the dead."""
        if self._process.dead:
            return
        _, _, *self._batch = unpack(frame[LENGTH:]) or (0, False)
        self._applied = False
        self._world.loop.call_later(self._world.weather.commit_time(), self._commit)

    def die(self) -> None:
        """Be killed with the gateway. What was handed over may have been committed already, or not."""
        if self._batch is not None and not self._applied and self._world.chaos.random() < 0.5:
            self._committed(self._batch)
        self._batch = None

    def _committed(self, batch: Batch) -> list[Answer]:
        answers = self._world.database.commit(batch)
        changed = [*change_log._changes(f"[{','.join(writer.logged(batch, answers))}]")]
        if changed and not self._world.alone:
            self._world.log.append((self._process.token, changed))
        return answers

    def _commit(self) -> None:
        if self._batch is None:
            return
        fate = self._world.weather.fate_of_batch()
        if fate in {"committed", "committed, answer lost", "committed, writer died"}:
            answers = self._committed(self._batch)
        self._applied = True
        if fate == "committed":
            self._world.loop.call_later(self._world.weather.answer_time(), self._answer, answers)
            return
        self._world.trace(self._process.name, "batch", fate)
        if fate in {"committed, answer lost", "not committed, answer lost"}:
            self._answer([("unknown", "the connection was lost.")] * len(self._batch), usable=False)
        elif fate == "refused":
            self._answer([("not_saved", "the disk is full.")] * len(self._batch), usable=True)
        else:
            self._batch = None
            self._commits._writer_lost()
            self._ready_later()

    def _answer(self, answers: list[tuple[object, ...]], *, usable: bool = True) -> None:
        if self._batch is None:
            return
        self._batch = None
        self._commits._receive(("answers", answers, usable), self)
        if not usable:
            self._ready_later()

    def _ready_later(self) -> None:
        self._world.loop.call_later(self._world.weather.restart_time(), self._ready)

    def _ready(self) -> None:
        if not self._process.dead:
            self._commits._receive(("ready",), self)


class SimulatedLog(ChangeLog):
    """The log of changes of a world in which several processes share the database."""

    def __init__(self, world: "World", announced: Changes) -> None:
        self._world = world
        self._changes = announced

    async def follow(self, process: str, missed: Callable[[], None]) -> None:
        read = len(self._world.log)
        missed()
        while True:
            await asyncio.sleep(_READ_EVERY)
            news, read = self._world.log[read:], len(self._world.log)
            for owner, moved in news:
                if owner != process:
                    self._changes.announce(moved)

    async def forget(self, before: int) -> None: ...


class SimulatedReaders(Readers):
    """Readers that take their time, and in bad weather fail."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        await asyncio.sleep(self._world.weather.read_time())
        if self._world.weather.read_fails():
            raise StoreUnavailable("the simulated server restarts.")
        return self._world.database.read(query)


class SimulatedCommits(Commits):
    """The real commits of a process, before such a writer."""

    def __init__(self, process: "Process", changes: Changes, metrics: Metrics) -> None:
        super().__init__(KINDS, changes, metrics)
        self._process = process
        self.writer = WriterProcess(process, self)

    @property
    def under_way(self) -> bool:
        """Whether something is still to be committed, by a living process."""
        return not self._process.dead and not self._idle.is_set()


class _Healthy(Health):
    """A process that comes up finds its database."""

    async def check(self, patience: float = 0.0) -> None: ...


class _SomeKeys(ApiKeys):
    """There are keys, so that the door need not look for the first one."""

    async def any(self) -> bool:
        return True


@asynccontextmanager
async def open_store(_: str, metrics: Metrics, **__: object) -> "AsyncIterator[Store]":
    """The real store over such a writer and such readers, of the process that asks."""
    process = here()
    changes = Changes()
    commits, readers = SimulatedCommits(process, changes, metrics), SimulatedReaders(process.world)
    process.commits = commits
    store = Store.over(commits, readers, readers, changes)
    commits._receive(("ready",), commits.writer)
    try:
        log = SimulatedLog(process.world, changes)
        yield store._replace(health=_Healthy(commits, readers), api_keys=_SomeKeys(commits, readers), log=log)
    finally:
        commits._closed = True
        if not process.dead:
            with suppress(TimeoutError):
                await asyncio.wait_for(commits._idle.wait(), 5)
            commits.writer.die()
        commits._end()
