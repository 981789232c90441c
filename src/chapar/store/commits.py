"""The gateway's end of the writer: queues operations, hands them over in batches, and settles what went wrong.

The writer itself is a process of its own (`writer.py`, which also describes the frames between the two).
"""

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, Self, TypeVar

import structlog

from chapar.errors import ChaparError, DatabaseFileGone, NotSaved, OutcomeUnknown, Phrase
from chapar.model.change import Change
from chapar.runtime.backoff import Backoff
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised
from chapar.store.changes import Changes
from chapar.store.files import Lock
from chapar.store.operations import Kind
from chapar.store.wire import pack
from chapar.store.writer_process import Channel, writer_process

log = structlog.get_logger()

LARGEST_BATCH: Final = 512  # items; bounds how long one commit takes
_FIRST_BACKOFF = 0.05  # seconds before a batch that failed is tried again; doubles …
_LONGEST_BACKOFF = 0.5  # … up to this, so that recovery is noticed within a caller's patience
_STANDSTILL = 0.1  # seconds by which a timer is late only where the process was stopped or starved
_AFTER_STANDSTILL = 0.05  # seconds until answers that came meanwhile have been read
_CLOSE_PATIENCE = 5.0  # seconds in which closing still commits what is queued

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Operation:
    """Items of one kind that were asked for together."""

    kind: Kind[Any, Any]
    place: int  #: of the kind, in the order in which the writer applies them
    arguments: Sequence[Any]
    crossing: Sequence[Any]  #: the arguments as they cross
    deadline: float  #: loop time from which it is not tried again
    future: asyncio.Future[list[Any]]
    may_be_committed: bool = False  #: it was handed over, and no clear answer came
    over: bool = False  #: it failed, and the caller has its error

    def succeed(self, results: list[Any]) -> None:
        """Give the caller the result of each item."""
        if not self.future.done():
            self.future.set_result(results)

    def fail(self, cause: Phrase | ChaparError | str) -> None:
        """Raise for the caller what is certain: it is not saved, or its outcome is unknown."""
        self.over = True
        if not self.future.done():
            self.future.set_exception(OutcomeUnknown() if self.may_be_committed else NotSaved(cause))

    def named(self, plain: Sequence[Any]) -> list[Any]:
        """The results as the caller is to see them."""
        named = self.kind.named
        if named is None:
            return [*plain]
        return [named(arguments, result) for arguments, result in zip(self.arguments, plain, strict=True)]

    def named_apart(self, items: Sequence[tuple[str, Any]]) -> list[Any]:
        """The results as the caller is to see them, where each item was committed, or not, alone."""
        return [
            self.kind.result(arguments, said) if outcome == "committed" else NotSaved(str(said))
            for arguments, (outcome, said) in zip(self.arguments, items, strict=True)
        ]

    def changes(self, results: Sequence[Any]) -> list[Change]:
        """Return what it has changed."""
        found: list[Change] = []
        if (changes := self.kind.changes) is not None:
            for arguments, result in zip(self.arguments, results, strict=True):
                if not isinstance(result, NotSaved):
                    found += changes(arguments, result)
        return found


_place_of = attrgetter("place")


class Commits:
    """The queue in front of the writer. Open it with `async with Commits.open(…)`.

    Operations go to the writer in the order in which they came, one batch at a time: what arrives while a commit
    runs goes into the next. One that failed goes back to the head, and the later ones wait behind it.
    """

    def __init__(self, order: Sequence[Kind[Any, Any]], changes: Changes, metrics: Metrics) -> None:
        """`order`: every kind, in the order in which the writer applies the kinds of a batch."""
        self._places = {kind.name: place for place, kind in enumerate(order)}
        self._changes = changes
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Operation] = deque()
        self._in_flight: list[_Operation] = []
        self._repeated = 0  # operations at the head of the queue that were handed over together before
        # Of the batch that was handed over last. Microseconds, so that no other process has the same.
        self._number = time.time_ns() // 1000
        self._writer: asyncio.WriteTransport | None = None  # None unless it is ready for a batch
        self._alive = asyncio.Event()  # set when the writer answers an empty batch
        self._down = False  # whether the writer says that it has no database
        self._cause: Phrase | ChaparError | str = Phrase("database.writer_starts")
        self.gone: DatabaseFileGone | None = None  #: which file of the database is; nothing is saved or read then
        self._backoff = 0.0
        self._flush_timer: asyncio.Handle | None = None
        self._sweep_timer: asyncio.Handle | None = None
        self._sweep_at = math.inf  # loop time of the next sweep
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database_url: str,
        lock: Lock | None,
        order: Sequence[Kind[Any, Any]],
        changes: Changes,
        metrics: Metrics,
        process: str | None = None,
    ) -> AsyncIterator[Self]:
        """Keep a writer running, which holds the lock of a SQLite file too.

        `process`: token of this process, where others may have to learn of what it changes.

        Leaving commits what is queued, within 5 s, and ends the writer.
        """
        commits = cls(order, changes, metrics)
        # No task group: it would wrap whatever its body raises, and this body is the whole gateway.
        keep = partial(commits._keep_writer, database_url, lock, process)
        keeper = asyncio.create_task(supervised("writer", keep, commits._metrics), name="writer")
        try:
            yield commits
        finally:
            commits._closed = True
            with suppress(TimeoutError):
                await asyncio.wait_for(commits._idle.wait(), _CLOSE_PATIENCE)
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            commits._end()

    @property
    def is_saving(self) -> bool:
        """Return whether the last commit succeeded, and the database has not gone since."""
        return not (self._down or self._backoff or self.gone is not None)

    async def is_answering(self, patience: float) -> bool:
        """Return whether the writer answers within so many seconds, or has reported that it has no database.

        It is asked with an empty batch, which begins no transaction and touches no disk.
        """
        writer = self._writer
        if writer is None or writer.is_closing():
            return True
        self._alive.clear()
        writer.write(pack(()))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._alive.wait(), patience)
        return self._alive.is_set() or self._writer is not writer  # another one has been started, or is about to be

    def submit(
        self, kind: Kind[Arguments, Result], arguments: Sequence[Arguments], deadline: float | None = None
    ) -> asyncio.Future[list[Result | NotSaved]]:
        """Queue items of one kind; the future has their results, in their order, once all are committed together.

        Each is committed, or fails alone and for good: a NotSaved in the list. They are tried until `deadline` (loop
        time; None: for ever). Then the future raises NotSaved where certainly nothing was committed, OutcomeUnknown
        where all may have been. Cancelling the future cancels nothing. One commit takes them all, however many.
        """
        future: asyncio.Future[list[Result | NotSaved]] = self._loop.create_future()
        if not arguments:
            future.set_result([])
            return future
        until = math.inf if deadline is None else deadline
        operation = _Operation(kind, self._places[kind.name], arguments, kind.crossing(arguments), until, future)
        if self._closed:
            operation.fail("the gateway is stopping.")
            return future
        if self.gone is not None and deadline is not None:
            operation.fail(self.gone)
            return future
        self._queue.append(operation)
        self._idle.clear()
        self._flush_within(0)
        self._sweep_by(until)
        return future

    async def one(self, kind: Kind[Arguments, Result], arguments: Arguments, deadline: float | None = None) -> Result:
        """The result of a single item; raises NotSaved, OutcomeUnknown."""
        [result] = await self.submit(kind, [arguments], deadline)
        if isinstance(result, NotSaved):
            raise result
        return result

    def _flush_within(self, seconds: float) -> None:
        """See to it that the queue is flushed; during a backoff it is so already."""
        if self._flush_timer is None and self._writer is not None and not self._in_flight:
            if seconds:
                self._flush_timer = self._loop.call_later(seconds, self._flush)
            else:
                # At the end of this turn of the loop, so that all its operations share a batch.
                self._flush_timer = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        # One that has died may be known by its pipe first: the queue is for the next one then.
        if self._writer is None or self._writer.is_closing() or self._in_flight:
            return
        if self._sweep_at <= self._loop.time():
            self._sweep()
        # In the order in which the writer applies it. It is answered so: what wakes up first is delivered first.
        is_repeated = self._repeated > 0
        batch = sorted(self._next_batch(), key=_place_of)
        if not batch:
            return
        if not is_repeated:
            self._number += 1
        crossing = ((operation.kind.name, operation.crossing) for operation in batch)
        self._in_flight = batch
        self._writer.write(pack((self._number, is_repeated, *crossing)))
        self._metrics.batches.observe(sum(len(operation.arguments) for operation in batch))

    def _next_batch(self) -> list[_Operation]:
        """Take from the queue what the next commit holds."""
        # A batch that is repeated is repeated by itself: its order then is what it was at the first time.
        repeated, self._repeated = self._repeated, 0
        if repeated:
            return [self._queue.popleft() for _ in range(min(len(self._queue), repeated))]
        batch: list[_Operation] = []
        items = 0
        while self._queue and (not items or items + len(self._queue[0].arguments) <= LARGEST_BATCH):
            items += len(self._queue[0].arguments)
            batch.append(self._queue.popleft())
        return batch

    def _committed(self, results: Sequence[Sequence[Any]]) -> None:
        batch, self._in_flight = self._in_flight, []
        changes: list[Change] = []
        for operation, plain in zip(batch, results, strict=True):
            self._succeed(operation, operation.named(plain), changes)
        self._announce(changes)
        self._go_on()

    def _answered(self, answers: Sequence[tuple[Any, ...]]) -> None:
        batch, self._in_flight = self._in_flight, []
        changes: list[Change] = []
        again = []
        for operation, answer in zip(batch, answers, strict=True):
            match answer:
                case ("committed", results):
                    self._succeed(operation, operation.named(results), changes)
                case ("apart", items):
                    self._succeed(operation, operation.named_apart(items), changes)
                case (outcome, cause):
                    operation.may_be_committed |= outcome == "unknown"
                    self._cause = str(cause)
                    again.append(operation)
        self._announce(changes)
        if again:
            self._try_again(again)
        else:
            self._go_on()

    def _succeed(self, operation: _Operation, results: list[Any], changes: list[Change]) -> None:
        operation.succeed(results)
        if self._changes.has_listeners:
            changes.extend(operation.changes(results))

    def _announce(self, changes: Sequence[Change]) -> None:
        """Announce what a commit has changed, once those who asked for it have seen its results."""
        if changes:
            self._loop.call_soon(self._changes.announce, changes)

    def _go_on(self) -> None:
        """Hand the next batch over, if there is one."""
        if self._backoff:
            log.info("commits_succeed_again")
        self._backoff = 0.0
        if self._queue:
            self._flush_within(0)
        else:
            self._idle.set()

    def _try_again(self, operations: Sequence[_Operation]) -> None:
        """Put `operations` back to the head of the queue and go on after a pause."""
        if not self._backoff:
            log.warning("commits_fail", cause=str(self._cause))
        self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        self._put_back(operations)
        if self._queue:
            self._flush_within(self._backoff)
        else:
            self._idle.set()

    def _sweep_by(self, deadline: float) -> None:
        """See to it that a sweep takes place at `deadline` or before."""
        if self._sweep_at <= deadline:
            return
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._sweep_at = deadline
        self._sweep_timer = self._loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """Fail what is past its deadline. One timer serves all: deadlines are rarely reached."""
        now = self._loop.time()
        stood_still = now - self._sweep_at > _STANDSTILL
        self._sweep_at = math.inf
        if stood_still:
            # What was answered meanwhile is read first, and then judged.
            self._sweep_by(now + _AFTER_STANDSTILL)
            return
        for operation in self._in_flight:
            if operation.deadline <= now and not operation.over:
                operation.may_be_committed = True
                operation.fail(self._cause)
        self._fail_queued(now)
        waiting = (operation.deadline for operation in (*self._in_flight, *self._queue) if not operation.over)
        self._sweep_by(min(waiting, default=math.inf))

    def _fail_queued(self, until: float) -> None:
        """Fail what waits and has a deadline up to `until`."""
        for operation in self._queue:
            if operation.deadline <= until:
                operation.fail(self._cause)
        self._repeated = sum(not operation.over for operation in list(self._queue)[: self._repeated])
        self._queue = deque(operation for operation in self._queue if not operation.over)
        if not self._queue and not self._in_flight:
            self._idle.set()

    def _file_gone(self, error: DatabaseFileGone) -> None:
        """Save nothing until the file is back. That may be never, so whoever has a deadline is not kept waiting."""
        if self.gone is None:
            log.error("database_file_gone", cause=str(error))
        self.gone = self._cause = error
        self._writer = None
        self._fail_queued(sys.float_info.max)

    def _end(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        for operation in self._queue:
            operation.fail(self._cause)

    async def _keep_writer(self, database_url: str, lock: Lock | None, process: str | None = None) -> None:
        """Start the writer, and another whenever it dies; what it left unanswered is repeated."""
        locked = None if lock is None else lock.descriptors
        backoff = Backoff()
        while True:
            channel = Channel(self._receive)
            try:
                async with writer_process(channel, locked or ()) as writer:
                    writer.write(pack((database_url, locked, process)))
                    try:
                        with backoff.working():
                            await channel.ended
                    finally:
                        self._writer_lost()
                self._cause = Phrase("database.writer_ended")
            except OSError as error:
                self._cause = Phrase("database.writer_does_not_start", cause=str(error))
            self._metrics.writer_deaths.inc()
            log.error("writer_died", cause=str(self._cause))  # it has logged its own traceback
            await backoff.pause()

    def _receive(self, frame: tuple[Any, ...], writer: asyncio.WriteTransport) -> None:
        match frame:
            case ("committed", results):
                self._writer = writer
                self._committed(results)
            case ("answers", answers, usable):
                self._writer = writer if usable else None
                self._answered(answers)
            case ("ready",):
                if self._down or self.gone is not None:
                    log.info("database_up")
                self._down, self.gone = False, None
                self._writer = writer
                self._flush_within(self._backoff)
            case ("alive",):
                self._alive.set()
            case ("gone", file):
                self._file_gone(DatabaseFileGone(str(file)))
            case ("down", cause):
                if not self._down:
                    log.warning("database_down", cause=cause)
                self._down = True
                self._cause = str(cause)

    def _writer_lost(self) -> None:
        self._writer = None
        batch, self._in_flight = self._in_flight, []
        for operation in batch:
            operation.may_be_committed = True
        self._put_back(batch)

    def _put_back(self, operations: Sequence[_Operation]) -> None:
        """Put what failed to the head of the queue, to be repeated."""
        again = [operation for operation in operations if not operation.over]
        self._queue.extendleft(reversed(again))
        self._repeated = len(again)
