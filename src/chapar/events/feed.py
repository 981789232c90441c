"""The feed: what has changed, page by page, for every listener of this process.

One task reads what is new, while a listener waits for more, and keeps the last pages in memory for all of them. A
listener asks for what follows its place: it is in these pages, or is read for those who are behind and want the same.
So nothing is kept for each listener, one who takes it slowly holds up nobody, and one who comes back goes on where it
was, in any process.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from chapar.errors import EventsGone, ListenersExhausted, StoreUnavailable
from chapar.events.batches import Batch, Pages
from chapar.events.cursors import cursor_of
from chapar.events.wanted import Wanted
from chapar.model.change import Change
from chapar.model.event import CursorGone, Event, EventPage, Position
from chapar.model.message import Message, Status
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.store.event_log import EventLog

_READ_EVERY: Final = 0.1  # seconds: other processes do not announce here what they change
_READ_AFTER: Final = 0.1  # seconds between two reads, at least, however much is announced
_REST: Final = 0.5  # seconds until the database is asked again that could not be
_MOST_KEPT: Final = 3 * 512 * 1024  # bytes of messages in memory for all listeners …
_KINDS: Final = 4  # … and as many for each of so many kinds of listeners that are behind
_READERS: Final = 2  # pages that are read for listeners who are behind at a time
_NEW_END: Final = 60_000  # ms after which the place of those who wait is named anew, where nothing happens
_DAY: Final = 86_400_000  # ms

_MOST_ANNOUNCED: Final = 3 * 1024 * 1024  # bytes of messages that are kept until their changes are read

_Messages = dict[tuple[str, int, Status], Message]


class _Announced:
    """Messages as the commits of this process have announced them, until the page with their changes is read.

    So the feed reads from the database only what others have changed, and what came faster than it reads.
    """

    def __init__(self) -> None:
        self._before: _Messages = {}
        self._now: _Messages = {}
        self._size = 0

    def note(self, changes: Sequence[Change]) -> None:
        """Keep the messages of a commit, as far as there is room."""
        for change in changes:
            message = change.message
            if message is not None and self._size < _MOST_ANNOUNCED:
                self._size += message.size
                self._now[change.id, change.at, change.after] = message

    def turn(self) -> None:
        """Forget what was noted before the last turn."""
        self._before, self._now, self._size = self._now, {}, 0

    def known(self, message_id: str, at: int, status: Status) -> Message | None:
        """The message that came at a time (ms since the epoch) to have a status; None: not known."""
        key = message_id, at, status
        return self._now.get(key) or self._before.get(key)


class Feed:
    """The events of all processes, for the listeners of this one."""

    def __init__(
        self, log: EventLog, clock: Clock, metrics: Metrics, *, retention_days: float, max_listeners: int
    ) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._kept = round(retention_days * _DAY)
        self._max_listeners = max_listeners
        self._listeners = 0
        self._wanted = Counter[Wanted]()  # by all of them
        self._generation = 0  # of that: pages that were read before have not the messages that others want now
        self._has_listeners = asyncio.Event()
        self._waiting = 0  # listeners who have received all that was read
        self._is_waited_for = asyncio.Event()
        self._news = asyncio.Event()  # this process has changed something
        self._moved = asyncio.Event()  # set, and another one made, with each page
        self._reading = asyncio.Semaphore(_READERS)
        self._end: Position | None = None  # of the last page; None: nobody listens yet
        self._recent = Pages(_MOST_KEPT)
        self._earlier: OrderedDict[Wanted, Pages] = OrderedDict()  # for those who are behind, by what they want
        self._announced = _Announced()
        self._stopping = asyncio.Event()  # listeners are to go elsewhere

    def received(self, changes: Sequence[Change]) -> None:
        """Note what this process has committed."""
        if self._listeners:
            self._announced.note(changes)
        self._news.set()

    async def run(self) -> None:
        """Read what is new while anybody listens, until cancelled."""
        while True:
            await self._has_listeners.wait()
            with suppress(StoreUnavailable):
                await self._follow()
            self._forget()
            if self._listeners:
                await asyncio.sleep(_REST)

    def stop(self) -> None:
        """Send all listeners away: the gateway stops."""
        self._stopping.set()
        self._wake()

    def cut(self, why: str) -> None:
        """Count a listener that was cut off."""
        self._metrics.listeners_cut[why,].inc()

    @contextmanager
    def listening(self, wanted: Wanted) -> Iterator[None]:
        """Count a listener, and read from now on what it wants; raises ListenersExhausted."""
        if self._listeners >= self._max_listeners:
            raise ListenersExhausted(self._max_listeners)
        self._listeners += 1
        if wanted not in self._wanted:
            self._generation += 1
            self._recent.clear()
        self._wanted[wanted] += 1
        self._metrics.listeners.inc()
        self._has_listeners.set()
        try:
            yield
        finally:
            self._listeners -= 1
            self._wanted -= Counter([wanted])
            self._metrics.listeners.dec()
            if not self._listeners:
                self._has_listeners.clear()
                self._is_waited_for.set()
                self._news.set()

    async def begin(self, cursor: Position | None, since: int | None) -> Position:
        """The place at which a listener begins: behind a cursor, at a time (ms since the epoch), or now.

        Raises EventsGone, StoreUnavailable.
        """
        kept_since = self._clock.now() - self._kept
        try:
            if cursor is not None:
                await self._log.check(cursor, kept_since)
                return cursor
            if since is not None:
                return await self._since(since, kept_since)
        except CursorGone as gone:
            raise EventsGone(cursor_of(gone.oldest)) from None
        return await self._log.end()

    async def _since(self, since: int, kept_since: int) -> Position:
        if since < kept_since:
            raise CursorGone(await self._log.oldest())
        return await self._log.since(since)

    async def following(self, after: Position, wanted: Wanted) -> Batch | None:
        """Some of what follows a place, once there is any; None: the gateway stops. Raises EventsGone.

        What is not `wanted` may be without its message.
        """
        while not self._stopping.is_set():
            moved, end = self._moved, self._end
            if (batch := self._recent.behind(after)) is not None:
                return batch
            if end is None or (after.is_at_end and end.order <= after.order):
                self._waiting += 1
                self._is_waited_for.set()
                try:
                    await moved.wait()
                finally:
                    self._waiting -= 1
                continue
            with suppress(StoreUnavailable):
                return await self.past(after, end, wanted)
            await asyncio.sleep(_REST)
        return None

    async def rest(self, seconds: float) -> bool:
        """Wait; return at once that the gateway stops, else in the end that it does not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stopping.wait()
        return not self._stopping.is_set()

    def newest(self, place: Position) -> Position:
        """The place behind what was read, where that is beyond another one; else that one."""
        return place if self._end is None or self._end.order <= place.order else self._end

    async def now(self) -> Position:
        """The place behind all that there is; raises StoreUnavailable."""
        return await self._log.end()

    async def past(self, after: Position, until: Position, wanted: Wanted) -> Batch:
        """Some of what follows a place, up to another one; raises EventsGone, StoreUnavailable.

        What is not `wanted` may be without its message.
        """
        # Many are behind at once, as after a restart: what was read for one of them follows the others, too.
        pages = self._earlier_for(wanted)
        if (found := pages.behind(after)) is not None:
            return found
        async with self._reading:
            try:
                return pages.behind(after) or pages.add(await self._log.past(after, until, wanted.may_cover))
            except CursorGone as gone:
                raise EventsGone(cursor_of(gone.oldest)) from None

    def _earlier_for(self, wanted: Wanted) -> Pages:
        """The pages for those who are behind and want this."""
        pages = self._earlier.pop(wanted, None) or Pages(_MOST_KEPT)
        self._earlier[wanted] = pages
        if len(self._earlier) > _KINDS:
            self._earlier.popitem(last=False)
        return pages

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = await self._log.end()
            self._wake()
        while self._listeners:
            if not self._waiting:  # all are still at what was read: one who takes nothing has nothing read
                self._is_waited_for.clear()
                await self._is_waited_for.wait()
                continue
            if self._waiting == self._listeners:
                self._earlier.clear()  # nobody is behind
            self._news.clear()
            read_at = loop.time()
            generation = self._generation
            page = await self._log.news(self._end, partial(_is_wanted, tuple(self._wanted)), self._announced.known)
            if generation != self._generation:
                continue
            if page.events or page.end.at - self._end.at > _NEW_END:
                self._add(page)
            if page.has_more:
                continue
            self._announced.turn()
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_EVERY):
                    await self._news.wait()
            await asyncio.sleep(max(0.0, read_at + _READ_AFTER - loop.time()))

    def _add(self, page: EventPage) -> None:
        """Keep a page, and notify all who wait for it."""
        self._recent.add(page)
        self._end = page.end
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _forget(self) -> None:
        """Forget what nobody needs before the next listener comes."""
        if not self._listeners:
            self._recent.clear()
            self._earlier.clear()
            self._announced = _Announced()
            self._end = None


def _is_wanted(wanted: Iterable[Wanted], event: Event) -> bool:
    return any(each.may_cover(event) for each in wanted)
