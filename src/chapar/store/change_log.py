"""The log of changes: what each commit has changed, written with it in its transaction.

The writer adds one row to each commit that has changed something. Listeners to events read it (`event_log`), and on
PostgreSQL the other processes do so ten times a second, and announce what it says like changes of their own. A row
becomes visible with its transaction, and transactions end out of order, so nobody can read on from the last number:
what is new is what the snapshot before did not show.

A row holds a JSON list of changes: `[id, device, before, after, reason, at, attempts]` is one of a message, and
`[null, device, before, after, since, evidence]` one of a device's presence.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
_FORGOTTEN: Final = 2000  # rows removed in one commit: a few milliseconds
_REPEATED_WITHIN: Final = 100_000  # rows behind the last commit of a batch, at most, until it is repeated

NOW_SQL: Final = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
_ADD: Final = {
    "postgresql": f"""
        INSERT INTO changes (tx, process, batch, at, moved)
        VALUES (pg_current_xact_id()::text::bigint, %s, %s, {NOW_SQL}, %s)
    """,  # noqa: S608 - every value is a parameter
    "sqlite": "INSERT INTO changes (batch, at, moved) VALUES (?, ?, ?)",
}
_IS_LOGGED: Final = f"""
    SELECT EXISTS (
        SELECT 1 FROM changes WHERE seq > (SELECT max(seq) FROM changes) - {_REPEATED_WITHIN} AND batch = {{parameter}}
    )
"""  # noqa: S608 - made of constants
_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"
BETWEEN_SNAPSHOTS: Final = """
    tx >= pg_snapshot_xmin(%s::pg_snapshot)::text::bigint AND tx < pg_snapshot_xmax(%s::pg_snapshot)::text::bigint
    AND NOT pg_visible_in_snapshot(tx::text::xid8, %s::pg_snapshot)
    AND pg_visible_in_snapshot(tx::text::xid8, %s::pg_snapshot)
"""
"""Whether a row is visible in the second of two snapshots of PostgreSQL, and not in the first; see `between()`."""
# What is committed between the two statements of a read is visible in the second one: it is left for the next read.
_SINCE: Final = f"SELECT moved FROM changes WHERE {BETWEEN_SNAPSHOTS} AND process <> %s ORDER BY seq"  # noqa: S608 - made of constants
_first = select(changes.c.seq, changes.c.at).order_by(changes.c.seq).limit(_FORGOTTEN).subquery()
_FORGET: Final = delete(changes).where(
    changes.c.seq.in_(
        select(_first.c.seq).where(
            _first.c.at < bindparam("before", type_=BigInteger),
            # The newest stays: by it a cursor is known, and a number is never given twice.
            _first.c.seq < select(func.max(changes.c.seq)).scalar_subquery(),
        )
    )
)
# After a dump was loaded into another cluster: its transactions have numbers that do not exist here yet.
_FORGET_UNBORN: Final = "DELETE FROM changes WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


def between(before: str, upto: str) -> tuple[str, str, str, str]:
    """The values of `BETWEEN_SNAPSHOTS`."""
    return before, upto, before, upto


def quoted(text: str | None) -> str:
    """A text as JSON."""
    return "null" if text is None else encode_basestring_ascii(text)


def written(change: Change) -> str:
    """A change of a message as the log has it."""
    id_, imei, before, after, reason, at, message, _ = change
    was = "null" if before is None else f'"{before}"'
    attempts = None if message is None else message.attempts
    return f'["{id_}","{imei}",{was},"{after}",{quoted(reason)},{at},{"null" if attempts is None else attempts}]'


def items_of(kind: Kind[Any, Any], rows: Sequence[Any], results: Sequence[Any]) -> list[str]:
    """Return what the log is to say of operations of one kind, from what crosses."""
    if kind.logged is not None:
        return kind.logged(rows, results)
    if kind.changes is None:
        return []
    return [item for row, result in zip(rows, results, strict=True) for item in all_written(kind.changed(row, result))]


def all_written(changed: Iterable[Change]) -> list[str]:
    """The changes of a state among these, as the log has them."""
    return [written(change) for change in changed if change.before is not change.after]


class Recorder:
    """The writer's end: adds a row to each commit that has changed something."""

    def __init__(self, process: str | None = None) -> None:
        """`process`: token of the process whose writer this is."""
        self._process = process

    def add(self, connection: Connection, items: Sequence[str], batch: int = 0, *, is_repeated: bool = False) -> None:
        """Add what the open transaction has changed.

        A batch `is_repeated` whose outcome is unknown: where its row is there, it was committed with all it changed.
        """
        if not items or (is_repeated and _is_logged(connection, batch)):
            return
        moved = f"[{','.join(items)}]"
        if connection.dialect.name == "postgresql":
            run_on_driver(connection, _ADD["postgresql"], (self._process or "", batch, moved))
        else:
            run_on_driver(connection, _ADD["sqlite"], (batch, time.time_ns() // 1_000_000, moved))


def _is_logged(connection: Connection, batch: int) -> bool:
    parameter = "%s" if connection.dialect.name == "postgresql" else "?"
    ((is_logged,),) = run_on_driver(connection, _IS_LOGGED.format(parameter=parameter), (batch,)).fetchall()
    return bool(is_logged)


class _News(NamedTuple):
    """The result of one read."""

    snapshot: str
    changes: Sequence[Change]


class ChangeLog:
    """The readers' end: announces what other processes have changed, and has the log forget what is old."""

    def __init__(self, commits: "Commits", lookups: "Readers", announced: "Changes") -> None:
        self._commits = commits
        self._lookups = lookups
        self._announced = announced
        self._snapshot: str | None = None  # what was announced; None: begin now
        self._read_at = 0.0  # by `time.monotonic`

    async def follow(self, process: str, *missed: Callable[[], None]) -> None:
        """Announce what others than `process` change on PostgreSQL, until cancelled.

        Each of `missed` is called where changes may not have been announced: at the beginning, and after a pause too
        long to read all that has happened.
        """
        while True:
            with suppress(StoreUnavailable):
                await self._read(process, missed)
            await asyncio.sleep(_READ_EVERY)

    async def forget(self, before: int) -> None:
        """Remove rows older than `before` (ms since the epoch), the oldest first, with rests in between."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if await self._commits.one(FORGET_CHANGES, before) < _FORGOTTEN - 1:
                return
            await asyncio.sleep(4 * (loop.time() - began))

    async def _read(self, process: str, missed: Iterable[Callable[[], None]]) -> None:
        now = time.monotonic()
        after = self._snapshot if now - self._read_at < _LONGEST_GAP else None
        news = await self._lookups.read(lambda connection: read(connection, process, after))
        self._snapshot, self._read_at = news.snapshot, now
        if after is None:
            for notify in missed:
                notify()
        if news.changes:
            self._announced.announce(news.changes)


def read(connection: Connection, process: str, after: str | None) -> _News:
    """Changes of other processes since the snapshot `after`; None: none, to begin with."""
    ((snapshot,),) = run_on_driver(connection, _SNAPSHOT).fetchall()
    rows = [] if after is None else run_on_driver(connection, _SINCE, (*between(after, snapshot), process)).fetchall()
    return _News(str(snapshot), [change for (moved,) in rows for change in _changes(str(moved))])


def _changes(moved: str) -> Iterable[Change]:
    for item in json.loads(moved):
        if item[0] is not None:
            id_, imei, before, after, reason, at, _ = item
            yield Change(
                id_, imei, None if before is None else Status(before), Status(after), reason, at, None, foreign=True
            )


def _forget(connection: Connection, befores: Sequence[int]) -> Sequence[int]:
    if connection.dialect.name == "postgresql":
        run_on_driver(connection, _FORGET_UNBORN)
    return [connection.execute(_FORGET, {"before": before}).rowcount for before in befores]


FORGET_CHANGES: Final[Kind[int, int]] = Kind("forget_changes", _forget)
