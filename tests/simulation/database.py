"""A database in memory that keeps the contract of `chapar.store`: the writer's operations, and the reads."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from chapar.errors import StoreUnavailable
from chapar.model.message import AT_BROKER, MOVES, UNFINISHED, Attempt, Message, Status
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store.acceptance import Added, Addition, Answer, Full, Key, Place, Withdrawal
from chapar.store.audit import Entry
from chapar.store.commits import Commits
from chapar.store.queue import Found, Lease, Take
from chapar.store.reports import Backlog
from chapar.store.retained import TakeBack
from chapar.store.schema import MUTABLE, PROCESS_LENGTH, Row, to_message, to_row
from chapar.store.store import Store
from chapar.store.wire import LENGTH, unpack
from chapar.store.writer import _KINDS
from simulation.place import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from simulation.world import Process, World

_WAITING = {Status.SCHEDULED, Status.QUEUED}


class Change(NamedTuple):
    """A message that was added (`before` is None) or moved."""

    at: float  #: loop time
    before: Message | None
    after: Message


class Database:
    """What is committed. Whoever applies a batch applies all of it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.messages: dict[str, Message] = {}
        self.seq: dict[str, int] = {}
        self.unfinished: dict[str, None] = {}  # ids in the order of acceptance
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.keys: dict[tuple[str, str], Key] = {}
        self.leases: dict[str, int] = {}
        self.changes: list[Change] = []
        self._apply: Mapping[str, Callable[[Any], object]] = {
            "add": self._add,
            "move": self._move,
            "record": self._record,
            "take": self._take,
            "cancel": self._cancel,
            "take_back": self._take_back,
            "hold": self._hold,
            "leave": self._leave,
            "settle": self._settle,
            "answer": self._answer,
            "withdraw": self._withdraw,
            "check": lambda _: None,
        }

    def commit(self, batch: Sequence[tuple[str, Any]]) -> list[object]:
        """Apply a batch in the writer's order; gives the results in the batch's order."""
        if len(batch) == 1:
            kind, arguments = batch[0]
            return [self._apply[kind](arguments)]
        results: list[object] = [None] * len(batch)
        for name in _KINDS:
            for position, (kind, arguments) in enumerate(batch):
                if kind == name:
                    results[position] = self._apply[kind](arguments)
        return results

    def time(self) -> int:
        """The clock of the database's host, ms since the epoch."""
        return self._world.wall_clock()

    def is_alive(self, process: str) -> bool:
        return self.leases.get(process, 0) > self.time()

    def backlog(self) -> Backlog:
        depths: dict[Status, int] = {}
        for id_ in self.unfinished:
            status = self.messages[id_].status
            depths[status] = depths.get(status, 0) + 1
        return Backlog(depths, next((self.messages[id_] for id_ in self.unfinished), None))

    def _put(self, before: Message | None, after: Message) -> None:
        if before is None:
            self.seq[after.id] = len(self.seq) + 1
        elif before.status is not after.status and after.status not in MOVES[before.status]:
            self._world.fails(f"{after.id} moved from {before.status} to {after.status}, which MOVES does not list")
        self.messages[after.id] = after
        if after.status in UNFINISHED:
            self.unfinished[after.id] = None
        else:
            self.unfinished.pop(after.id, None)
        self.changes.append(Change(self._world.loop.time(), before, after))
        self._world.trace("database", after.id, before.status if before else "new", after.status, after)

    def _lane(self, imei: str) -> Iterator[Message]:
        return (message for id_ in self.unfinished if (message := self.messages[id_]).imei == imei)

    def _add(self, addition: Addition) -> Added:
        row, max_depth, key_row, _ = addition
        message = to_message(row)
        key = None if key_row is None else Key._make(key_row)
        if key is not None and (owner := self.keys.get(key[:2])) is not None:
            if owner.kept_until <= message.created_at:
                del self.keys[key[:2]]
            elif owner.message_id != message.id:
                return owner
        if (there := self.messages.get(message.id)) is not None:
            return Place(there.status, there.claim)
        if message.status is not Status.REJECTED:
            lane = list(self._lane(message.imei))
            if message.status is Status.PUBLISHING and any(_blocks(other, message.claim) for other in lane):
                message = message._replace(status=Status.QUEUED, attempts=0, claim=None)
            if len(lane) >= max_depth:
                return Full(lane[0].id)
        self._put(None, message)
        if key is not None:
            self.keys[key[:2]] = key
        return Place(message.status, message.claim)

    def _withdraw(self, withdrawal: Withdrawal) -> bool:
        row, claim, key = withdrawal
        never = to_message(row)
        before = self.messages.get(never.id)
        if before is None:
            self._put(None, never)
        elif _is_unsent(before, claim) and not self._is_answered(key):
            rejects = before.status is Status.PUBLISHING
            status = Status.REJECTED if rejects else Status.CANCELLED
            ended = before._replace(status=status, reason=never.reason, attempts=0, claim=None)
            self._put(before, ended._replace(finished_at=never.finished_at))
        else:
            return False
        if key is not None:
            self._forget(key)
        return True

    def _is_answered(self, key: Key | None) -> bool:
        """Whether another process has answered for the message of this key."""
        owner = None if key is None else self.keys.get(key[:2])
        return owner is not None and owner.message_id == key.message_id and owner.answer_status is not None

    def _move(self, row: Row) -> bool:
        after = dict(zip(MUTABLE, row, strict=False))
        id_, *guard = row[len(MUTABLE) :]
        before = self.messages.get(str(id_))
        if before is None:
            return False
        if [before.status.value, before.attempts, before.claim] == guard:
            self._put(before, before._replace(**after | {"status": Status(str(row[0]))}))
            return True
        return all(getattr(before, name) == value for name, value in after.items())

    def _record(self, attempt: Attempt) -> None:
        self.attempts.setdefault((attempt.message_id, attempt.attempt), Attempt._make(attempt))

    def _take(self, take: Take) -> Found:
        claim, limit, at = take
        process = claim[:PROCESS_LENGTH]
        expired = []
        for message in [self.messages[id_] for id_ in self.unfinished]:
            wake_at = _wake_at(message)
            if wake_at is None or wake_at > at:
                continue
            if message.expires_at is not None and message.expires_at <= at:
                ended = message._replace(status=Status.EXPIRED, reason="expired", finished_at=at, not_before=None)
                self._put(message, ended)
                expired.append(message.id)
            else:
                self._put(message, message._replace(status=Status.QUEUED, not_before=None))
        taken = self._of_claim(claim)
        superseded: list[str] = []
        if not taken and limit:
            superseded = self._claim(claim, limit, process, at)
            taken = self._of_claim(claim)
        times = (_wake_at(self.messages[id_]) for id_ in self.unfinished)
        return taken, expired, min((time for time in times if time is not None), default=None), superseded

    def _claim(self, claim: str, limit: int, process: str, at: int) -> list[str]:
        """Take what is next; gives the clearings that something newer has superseded."""
        superseded: list[str] = []
        unfinished = [self.messages[id_] for id_ in self.unfinished]
        under_way = [message for message in unfinished if message.status is Status.PUBLISHING]
        kept = {message.imei for message in under_way if (message.claim or "")[:PROCESS_LENGTH] != process}
        kept |= {imei for imei, many in Counter(message.imei for message in under_way).items() if many >= limit}
        for message in unfinished:
            if message.status is not Status.QUEUED or message.imei in kept:
                continue
            if message.not_before is not None:
                kept.add(message.imei)
                continue
            if message.clears and self._replaces(message):
                self._put(message, message._replace(status=Status.CANCELLED, reason="superseded", finished_at=at))
                superseded.append(message.id)
            else:
                taken = message._replace(status=Status.PUBLISHING, attempts=message.attempts + 1, claim=claim)
                self._put(message, taken)
            limit -= 1
            if not limit:
                break
        return superseded

    def _of_claim(self, claim: str) -> list[Row]:
        messages = (self.messages[id_] for id_ in self.unfinished)
        return [to_row(message) for message in messages if message.claim == claim]

    def _cancel(self, entry: Entry) -> tuple[bool, str | None]:
        id_, at = entry.subject, entry.at
        before = self.messages.get(id_)
        if before is None or before.status not in _WAITING:
            return False, None if before is None else before.status.value
        after = before._replace(status=Status.CANCELLED, reason="cancelled", not_before=None, finished_at=at)
        self._put(before, after)
        return True, after.status.value

    def _take_back(self, asked: TakeBack) -> str | None:
        empty = to_message(asked[0])
        origin = self.messages.get(empty.origin or "")
        if origin is None or not origin.retain or origin.status in UNFINISHED:
            return None
        if origin.status not in AT_BROKER and not origin.possible_duplicate:
            return None
        under_way = {Status.QUEUED, Status.PUBLISHING, Status.PUBLISHED}
        for message in self.messages.values():
            if message.clears and message.origin == origin.id and message.status in under_way:
                return message.id
        if self._replaces(empty):
            return None
        self._put(None, empty)
        return empty.id

    def _replaces(self, empty: Message) -> bool:
        """Whether the topic has something newer than what a clearing is for, which it would remove."""
        own = self.seq.get(empty.id, len(self.seq) + 1)
        return any(
            message.status in AT_BROKER or (message.status is Status.PUBLISHING and self.seq[id_] < own)
            for id_, message in self.messages.items()
            if message.retain
            and message.topic == empty.topic
            and id_ != empty.id
            and self.seq[id_] > self.seq[str(empty.origin)]
        )

    def _hold(self, lease: Lease) -> None:
        if lease.alone:
            self.leases = {token: until for token, until in self.leases.items() if token == lease.process}
        self.leases[lease.process] = self.time() + round(lease.seconds * 1000)

    def _leave(self, process: str) -> None:
        self.leases.pop(process, None)

    def _settle(self, settle: tuple[str, int]) -> int:
        process, at = settle
        settled = 0
        for message in [self.messages[id_] for id_ in self.unfinished]:
            if message.status is not Status.PUBLISHING:
                continue
            owner = (message.claim or "")[:PROCESS_LENGTH]
            if owner and (owner == process or self.is_alive(owner)):
                continue
            settled += 1
            self._record(Attempt(message.id, message.attempts, at, owner, "process_died", None))
            if message.at_most_once:
                after = message._replace(status=Status.UNCONFIRMED, reason="process_died", claim=None, finished_at=at)
            else:
                after = message._replace(status=Status.QUEUED, possible_duplicate=True, claim=None)
            self._put(message, after)
        return settled

    def _answer(self, answer: Answer) -> Key | None:
        key_row, status, body = answer
        key = Key._make(key_row)
        owner = self.keys.get(key[:2])
        if owner is None or owner.message_id != key.message_id:
            return None
        if owner.answer_status is None:
            self.keys[key[:2]] = owner = owner._replace(answer_status=status, answer_body=body)
        return owner

    def _forget(self, key: Key) -> None:
        owner = self.keys.get(key[:2])
        if owner is not None and owner.message_id == key[3]:
            del self.keys[key[:2]]


def _blocks(other: Message, direct: str | None) -> bool:
    """Whether what comes under the claim `direct` must wait behind `other`."""
    return other.status is Status.QUEUED or (other.status is Status.PUBLISHING and other.claim != direct)


def _is_unsent(message: Message, claim: str | None) -> bool:
    """Whether a message that was asked for under `claim` has certainly not left."""
    if message.status is Status.QUEUED:
        return message.attempts == 0
    return message.status is Status.SCHEDULED or (message.status is Status.PUBLISHING and message.claim == claim)


def _wake_at(message: Message) -> int | None:
    """When time does something to a message: it becomes due, expires, or may be tried again."""
    if message.status is Status.SCHEDULED:
        return message.deliver_at
    if message.status is not Status.QUEUED:
        return None
    late = message.expires_at is not None and message.not_before is not None and message.not_before > message.expires_at
    return message.expires_at if message.not_before is None or late else message.not_before


class WriterProcess:
    """One life of a gateway's writer. It takes its time, and in bad weather it fails in every way there is."""

    def __init__(self, process: "Process", commits: Commits) -> None:
        self._process = process
        self._world = process.world
        self._commits = commits
        self._batch: list[tuple[str, Any]] | None = None
        self._applied = False

    def write(self, frame: bytes) -> None:
        """Take a batch; its answer comes later, and never to the dead."""
        if self._process.dead:
            return
        self._batch = [*unpack(frame[LENGTH:])]
        self._applied = False
        self._world.loop.call_later(self._world.weather.commit_time(), self._commit)

    def die(self) -> None:
        """Be killed with the gateway. What was handed over may have been committed already, or not."""
        if self._batch is not None and not self._applied and self._world.chaos.random() < 0.5:
            self._world.database.commit(self._batch)
        self._batch = None

    def _commit(self) -> None:
        if self._batch is None:
            return
        fate = self._world.weather.fate_of_batch()
        if fate in {"committed", "committed, answer lost", "committed, writer died"}:
            results = self._world.database.commit(self._batch)
        self._applied = True
        if fate == "committed":
            answers = [("committed", result) for result in results]
            self._world.loop.call_later(self._world.weather.answer_time(), self._answer, answers)
            return
        self._world.trace(self._process.name, "batch", fate)
        if fate in {"committed, answer lost", "not committed, answer lost"}:
            self._answer([("unknown", "the connection was lost.")] * len(self._batch), usable=False)
        elif fate == "refused":
            self._answer([("not_saved", "the disk is full.", True)] * len(self._batch), usable=True)
        else:
            self._batch = None
            self._commits._writer_lost()
            self._ready_later()

    def _answer(self, answers: list[tuple[object, ...]], *, usable: bool = True) -> None:
        if self._batch is None:
            return
        self._batch = None
        self._commits._hear(("answers", answers, usable), self)
        if not usable:
            self._ready_later()

    def _ready_later(self) -> None:
        self._world.loop.call_later(self._world.weather.restart_time(), self._ready)

    def _ready(self) -> None:
        if not self._process.dead:
            self._commits._hear(("ready",), self)


class SimulatedStore(Store):
    """The real store over a writer and readers in memory."""

    def __init__(self, process: "Process", commits: Commits) -> None:
        self._process = process
        self._commits = commits
        self.writer = WriterProcess(process, commits)

    @classmethod
    @asynccontextmanager
    async def open(cls, _: Settings, metrics: Metrics | None = None) -> "AsyncIterator[Self]":
        process = here()
        commits = Commits(metrics or Metrics())
        store = cls(process, commits)
        process.store = store
        commits._hear(("ready",), store.writer)
        try:
            yield store
        finally:
            commits._closed = True
            if not process.dead:
                with suppress(TimeoutError):
                    await asyncio.wait_for(commits._idle.wait(), 5)
                store.writer.die()
            commits._end()

    @property
    def commits_under_way(self) -> bool:
        """Whether something is still to be committed, by a living process."""
        return not self._process.dead and not self._commits._idle.is_set()

    async def check(self, patience: float = 0.0) -> None:
        """A process that comes up finds its database."""

    async def find(self, message_id: str) -> Message | None:
        await self._read()
        return self._process.world.database.messages.get(message_id)

    async def find_all(self, ids: Sequence[str]) -> list[Message]:
        await self._read()
        found = self._process.world.database.messages
        return [found[id_] for id_ in ids if id_ in found]

    async def attempts(self, message_id: str) -> list[Attempt]:
        await self._read()
        history = self._process.world.database.attempts
        return [attempt for (id_, _), attempt in sorted(history.items()) if id_ == message_id]

    async def backlog(self) -> Backlog:
        await self._read()
        return self._process.world.database.backlog()

    async def owner(self, key: tuple[str, str], at: int) -> Key | None:
        await self._read()
        owner = self._process.world.database.keys.get(key)
        return owner if owner is not None and owner.kept_until > at else None

    async def any_key(self) -> bool:
        return True  # so that the door need not look for the first one

    async def is_alive(self, process: str) -> bool:
        await self._read()
        return self._process.world.database.is_alive(process)

    async def _read(self) -> None:
        await asyncio.sleep(self._process.world.weather.read_time())
        if self._process.world.weather.read_fails():
            raise StoreUnavailable("the simulated server restarts.")
