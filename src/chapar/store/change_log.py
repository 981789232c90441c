"""The log of changes: what each commit has moved, for the other processes on the same PostgreSQL database.

The writer adds one row to each commit, in its transaction, while another process is alive. The others read it ten times
a second and announce what it says like changes of their own. A row becomes visible with its transaction, and
transactions end out of order, so nobody can read on from the last number: what is new is what the snapshot before did
not show.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, select

from chapar.errors import StoreUnavailable
from chapar.model.change import Change
from chapar.model.message import Status
from chapar.store.database import run_on_driver
from chapar.store.operations import Kind
from chapar.store.schema import changes

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.changes import Changes
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_READ_EVERY: Final = 0.1  # seconds
_LONGEST_GAP: Final = 10.0  # seconds without a read after which what happened meanwhile is not read any more
_UNNOTICED: Final = 1.0  # seconds from a beginning in which others may take themselves to be alone yet
_KEPT: Final = 60.0  # seconds for which a row is kept at least
_FORGET_EVERY: Final = 5.0  # seconds
_FORGOTTEN: Final = 2000  # rows removed in one commit: a few milliseconds
_ASK_EVERY: Final = 0.1  # seconds for which the writer remembers whether it is alone

_NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
_OTHERS: Final = f"SELECT EXISTS (SELECT FROM processes WHERE token <> %s AND lease_until > {_NOW})"  # noqa: S608
_ADD: Final = f"""
    INSERT INTO changes (tx, process, at, moved) VALUES (pg_current_xact_id()::text::bigint, %s, {_NOW}, %s)
"""  # noqa: S608 - every value is a parameter
_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"
_SINCE: Final = """
    SELECT at, moved FROM changes
    WHERE tx >= pg_snapshot_xmin(%s::pg_snapshot)::text::bigint
        AND NOT pg_visible_in_snapshot(tx::text::xid8, %s::pg_snapshot) AND process <> %s
    ORDER BY seq
"""
_LAST: Final = select(func.max(changes.c.seq))
_oldest = (
    select(changes.c.seq)
    .where(changes.c.seq <= bindparam("last", type_=BigInteger))
    .order_by(changes.c.seq)
    .limit(_FORGOTTEN)
    .with_for_update(skip_locked=True)
)
_FORGET: Final = delete(changes).where(changes.c.seq.in_(_oldest))


class Recorder:
    """The writer's end: adds a row to each commit that has changed something, while another process is alive."""

    def __init__(self, process: str) -> None:
        """`process`: token of the process whose writer this is."""
        self._process = process
        self._is_alone = True
        self._asked_at = float("-inf")

    def is_needed(self, connection: Connection) -> bool:
        """Return whether another process is there to read it, asked in the open transaction."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY:
            ((others,),) = run_on_driver(connection, _OTHERS, (self._process,)).fetchall()
            self._is_alone, self._asked_at = not others, now
        return not self._is_alone

    def add(self, connection: Connection, changed: Iterable[Change]) -> None:
        """Add what the open transaction has changed."""
        moved = [(change.id, change.imei, change.before, change.after) for change in changed]
        if moved:
            run_on_driver(connection, _ADD, (self._process, json.dumps(moved, separators=(",", ":"))))


class _News(NamedTuple):
    """The result of one read."""

    snapshot: str
    changes: Sequence[Change]


class ChangeLog:
    """The readers' end: announces what other processes have changed."""

    def __init__(self, commits: "Commits", lookups: "Readers", announced: "Changes") -> None:
        self._commits = commits
        self._lookups = lookups
        self._announced = announced
        self._snapshot: str | None = None  # what was announced; None: begin now
        self._read_at = self._begun_at = 0.0  # by `time.monotonic`

    async def follow(self, process: str, missed: Callable[[], None]) -> None:
        """Announce what others than `process` change, until cancelled.

        `missed` is called where changes may not have been announced: at the beginning, and after a pause too long to
        read all that has happened, until others have certainly noticed that this process is there.
        """
        while True:
            with suppress(StoreUnavailable):
                await self._read(process, missed)
            await asyncio.sleep(_READ_EVERY)

    async def forget(self) -> None:
        """Remove what everybody has read, until cancelled."""
        seen: deque[tuple[float, int]] = deque()  # the last row there was, and when
        forgotten = outlived = 0
        while True:
            await asyncio.sleep(_FORGET_EVERY)
            try:
                last = await self._lookups.read(lambda connection: connection.execute(_LAST).scalar_one())
            except StoreUnavailable:
                continue
            now = time.monotonic()
            if last is not None:
                seen.append((now, last))
            while seen and now - seen[0][0] >= _KEPT:
                _, outlived = seen.popleft()
            while forgotten < outlived:
                if await self._commits.one(FORGET_CHANGES, outlived) < _FORGOTTEN:
                    forgotten = outlived

    async def _read(self, process: str, missed: Callable[[], None]) -> None:
        now = time.monotonic()
        after = self._snapshot if now - self._read_at < _LONGEST_GAP else None
        news = await self._lookups.read(lambda connection: read(connection, process, after))
        self._snapshot, self._read_at = news.snapshot, now
        if after is None:
            self._begun_at = now
        if now - self._begun_at < _UNNOTICED:
            missed()
        if news.changes:
            self._announced.announce(news.changes)


def read(connection: Connection, process: str, after: str | None) -> _News:
    """Changes of other processes since the snapshot `after`; None: none, to begin with."""
    ((snapshot,),) = run_on_driver(connection, _SNAPSHOT).fetchall()
    rows = [] if after is None else run_on_driver(connection, _SINCE, (after, after, process)).fetchall()
    return _News(str(snapshot), [change for at, moved in rows for change in _changes(int(at), str(moved))])


def _changes(at: int, moved: str) -> Iterable[Change]:
    for id_, imei, before, after in json.loads(moved):
        known = None if before is None else Status(before)
        yield Change(id_, imei, known, Status(after), None, at, None, foreign=True)


def _forget(connection: Connection, lasts: Sequence[int]) -> Sequence[int]:
    return [connection.execute(_FORGET, {"last": last}).rowcount for last in lasts]


FORGET_CHANGES: Final[Kind[int, int]] = Kind("forget_changes", _forget)
