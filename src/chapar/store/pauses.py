"""Pauses: nothing is taken from the queue of a paused device; what is ready there says so, and leaves once resumed.

A TAKE passes over every device that has a row in `pauses`, whatever its messages say. Their reason `paused` shows it to
people, and keeps them out of the index of what may leave. Resumed, a device keeps its row until none of its messages
has that reason any more: all of them may leave at the same moment, in their order.

On PostgreSQL, whoever gives a message that reason shares a lock on the row, so that it is not resumed meanwhile.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    update,
)

from chapar.model.audit import Entry
from chapar.model.device import Pause
from chapar.model.message import Status
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.database import run_on_driver
from chapar.store.generations import advance
from chapar.store.lanes import IN_LANE, WAITING_FOR_REPLY, release
from chapar.store.operations import Kind
from chapar.store.presences import Noted, put_all, register, registered
from chapar.store.schema import IS_OPEN, IS_READY, IS_URGENT, IS_WAITING, messages, pauses

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_AT_ONCE: Final = 1000  # messages in one commit, for which other commits wait
_FRONT: Final = 1000  # messages at the front of the queue among which a TAKE looks for those of paused devices
_LOOK_AGAIN: Final = 0.01  # seconds between looks for transactions that began before a pause
_ONE_TAKER: Final = 0x63686170  # the advisory lock under which PostgreSQL lets one process at a time take messages

_PAUSED: Final = Reason.PAUSED.value
_QUEUED: Final = Status.QUEUED.value
_is_of_device = messages.c.imei == bindparam("device")
_stands: ColumnElement[bool] = pauses.c.resumed_at.is_(None)
_of_device = pauses.c.imei == bindparam("device")

HAS_PAUSE: ColumnElement[bool] = exists(select(literal(1)).select_from(pauses))
"""Whether any device is paused, or was resumed and has messages that do not know of it."""
HOW_MANY_PAUSED: Final = select(func.count()).select_from(pauses).where(_stands)
"""How many devices are paused."""
NEXT_RESUMED: Final = select(func.min(pauses.c.resumed_at)).where(pauses.c.resumed_at.is_not(None)).scalar_subquery()
"""When a device was resumed that has such messages: there is something to do at once."""
IS_PASSED_OVER: ColumnElement[bool] = messages.c.imei.in_(select(pauses.c.imei))
"""Whether nothing is taken for a message's device."""
IS_PAUSED: ColumnElement[bool] = exists(select(literal(1)).where(pauses.c.imei == messages.c.imei, _stands))
"""Whether a message's device is paused."""

_BEGIN = put_all(pauses, "paused_at", "paused_by", "note", "resumed_at", where=pauses.c.resumed_at.is_not(None))
_PAUSE = select(pauses.c.paused_at, pauses.c.paused_by, pauses.c.note).where(_of_device, _stands)
_RESUME = update(pauses).where(_of_device, _stands).values(resumed_at=bindparam("at", type_=BigInteger))
_END = delete(pauses).where(_of_device, pauses.c.resumed_at.is_not(None))
_RESUMED = (
    select(pauses.c.imei)
    .where(pauses.c.resumed_at.is_not(None))
    .order_by(pauses.c.resumed_at)
    .limit(literal_column("10"))
    .with_for_update(skip_locked=True)
)
_SHARED = (
    select(pauses.c.imei)
    .where(pauses.c.imei.in_(bindparam("devices", expanding=True)), _stands)
    .order_by(pauses.c.imei)
    .with_for_update(read=True, skip_locked=True)
)
_AMONG = select(pauses.c.imei).where(pauses.c.imei.in_(bindparam("devices", expanding=True)), _stands)

# In common table expressions, because PostgreSQL may run a plain subquery with LIMIT more than once.
_ready = (
    select(messages.c.seq)
    .where(text(IS_OPEN), messages.c.status == _QUEUED, _is_of_device, messages.c.reason.is_(None))
    .where(messages.c.seq > bindparam("behind", type_=BigInteger))
    .order_by(messages.c.seq)
    .limit(bindparam("limit", type_=Integer, literal_execute=True))
    .with_for_update(skip_locked=True)
    .cte("ready")
)
_PARK = (
    update(messages).where(messages.c.seq.in_(select(_ready.c.seq))).values(reason=_PAUSED).returning(messages.c.seq)
)
_found = (
    select(messages.c.seq)
    .where(messages.c.seq.in_(bindparam("found", expanding=True)))
    .where(messages.c.status.concat("") == _QUEUED, messages.c.reason.is_(None))
    .with_for_update(skip_locked=True)
    .cte("found")
)
_PARK_FOUND = update(messages).where(messages.c.seq.in_(select(_found.c.seq))).values(reason=_PAUSED)
_parked = (
    select(messages.c.seq)
    .where(text(IS_WAITING), _is_of_device, messages.c.reason == _PAUSED)
    .order_by(messages.c.seq)
    .limit(bindparam("limit", type_=Integer, literal_execute=True))
    .cte("parked")
)
_is_in_lane: ColumnElement[bool] = literal_column(f"({IN_LANE})")
# Those of a lane as all but the first of them are to stand; `release` sees to that one.
_UNPARK = (
    update(messages)
    .where(messages.c.seq.in_(select(_parked.c.seq)))
    .values(reason=case((_is_in_lane, WAITING_FOR_REPLY), else_=null()))
    .returning(messages.c.seq)
)
_IN_LANE = (
    select(literal(1))
    .where(text(IS_WAITING), _is_of_device, messages.c.reason == WAITING_FOR_REPLY)
    .limit(literal_column("1"))
)


def _front_of_queue(condition: str) -> Select[tuple[int, str]]:
    front = (
        select(messages.c.seq, messages.c.imei)
        .where(text(condition))
        .order_by(messages.c.seq)
        .limit(literal_column(str(_FRONT)))
        .subquery()
    )
    is_paused = exists(select(literal(1)).where(pauses.c.imei == front.c.imei, _stands))
    return select(front.c.seq, front.c.imei).where(is_paused)


_FRONTS = [_front_of_queue(condition) for condition in (IS_READY, IS_URGENT)]

# A transaction that has read `pauses` holds a lock on the table until its end, from before what it read is as of.
_READING: Final = """
    SELECT held.virtualtransaction FROM pg_locks AS held JOIN pg_stat_activity AS backend ON backend.pid = held.pid
    WHERE held.locktype = 'relation' AND held.relation = 'pauses'::regclass
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND coalesce(backend.application_name, '') IN ('chapar-writer', '')
"""


class PauseQueue(NamedTuple):
    """The wish to pause a device's queue."""

    entry: Entry  #: what the audit trail says of it; it names the device
    by: str  #: who pauses, for people
    note: str | None
    max_devices: int  #: so many may be registered
    behind: int = 0  #: messages up to this `seq` say already that they are paused


class Parked(NamedTuple):
    """The result of one commit of a pause."""

    pause: Pause  #: the one that stands: this one, or an earlier one
    behind: int | None  #: of the commit that goes on; None: every message says so


class Pauses:
    """Pause and resume the queues of devices."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    async def pause(self, asked: PauseQueue, patience: float) -> Pause | None:
        """Pause a device's queue, and register the device; gives the pause that stands, None: there is no room for it.

        Once this is given, no process takes anything for the device. Each commit may take `patience` seconds. Raises
        NotSaved, OutcomeUnknown.
        """
        loop = asyncio.get_running_loop()
        paused = await self._commits.one(PAUSE_QUEUE, asked, loop.time() + patience)
        pause = None if paused is None else paused.pause
        while paused is not None and paused.behind is not None:
            asked = asked._replace(behind=paused.behind)
            paused = await self._commits.one(PAUSE_QUEUE, asked, loop.time() + patience)
        return pause

    async def resume(self, entry: Entry, deadline: float) -> bool:
        """Resume the queue of the device that the entry names; whether it was paused.

        Raises NotSaved, OutcomeUnknown.
        """
        return await self._commits.one(RESUME_QUEUE, entry, deadline)

    async def is_in_force(self, deadline: float) -> bool:
        """Wait for what other processes had begun before a pause was committed, and may not know of it.

        False where that is not over at the `deadline`. Raises StoreUnavailable.
        """
        loop = asyncio.get_running_loop()
        before = await self._lookups.read(_reading)
        while before:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_AGAIN)
            before &= await self._lookups.read(_reading)
        return True


def _reading(connection: Connection) -> set[str]:
    """The transactions of writers that may have read `pauses` as it was before; on SQLite, one writes at a time."""
    if connection.dialect.name == "sqlite":
        return set()
    return {transaction for (transaction,) in run_on_driver(connection, _READING).fetchall()}


def paused_among(connection: Connection, imeis: Collection[str]) -> set[str]:
    """Those of the devices that are paused."""
    return set(connection.scalars(_AMONG, {"devices": sorted(imeis)})) if imeis else set()


def keep_paused(connection: Connection, imeis: Collection[str]) -> set[str]:
    """Have paused devices stay so until the end of the transaction; gives those of which that is certain."""
    return set(connection.scalars(_SHARED, {"devices": sorted(imeis)})) if imeis else set()


def be_only_taker(connection: Connection) -> None:
    """Have no other process take messages until the end of the transaction; on SQLite, one writes at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ONE_TAKER)))


def attend(connection: Connection) -> None:
    """Have what is ready of paused devices say that it waits, and what is resumed that it does no more.

    No more of it than one commit should take; to be called under the lock of the one process that takes.
    """
    front = [(row.seq, row.imei) for statement in _FRONTS for row in connection.execute(statement)]
    kept = keep_paused(connection, {imei for _, imei in front})
    if parked := [seq for seq, imei in front if imei in kept]:
        connection.execute(_PARK_FOUND, {"found": parked})
    left = _AT_ONCE
    for imei in connection.scalars(_RESUMED).all():
        left -= _let_leave(connection, imei, left)
        if left <= 0:
            return


def _let_leave(connection: Connection, imei: str, limit: int) -> int:
    """Have some messages of a device that was resumed wait no more, and end its pause where those are all."""
    found = len(connection.execute(_UNPARK, {"device": imei, "limit": limit}).all())
    if found < limit:
        if connection.execute(_IN_LANE, {"device": imei}).first() is not None:  # else it is a long look for nothing
            release(connection, [imei])
        connection.execute(_END, {"device": imei})
    return found


_Paused = tuple[tuple[int, str, str | None], int | None] | None
"""The fields of Parked, as they cross."""


def _pause(connection: Connection, asked: Sequence[PauseQueue]) -> Sequence[_Paused]:
    # In one order everywhere, so that no two processes wait for each other.
    paused = {str(each.entry.imei): _pause_one(connection, each) for each in sorted(asked, key=_device_of)}
    return [paused[str(each.entry.imei)] for each in asked]


def _device_of(asked: PauseQueue) -> str:
    return str(asked.entry.imei)


def _pause_one(connection: Connection, asked: PauseQueue) -> _Paused:
    entry, by, note, max_devices, behind = asked
    imei = str(entry.imei)
    new = Noted(imei, None, None, register_at=entry.at, max_devices=max_devices)
    if not registered(connection, [imei]) and not register(connection, [new]):
        return None
    begun = {"imei": imei, "paused_at": entry.at, "paused_by": by, "note": note, "resumed_at": None}
    before = stands = connection.execute(_PAUSE, {"device": imei}).one_or_none()
    if before is None and behind == 0:
        connection.execute(_BEGIN[connection.dialect.name], begun)
        stands = connection.execute(_PAUSE, {"device": imei}).one_or_none()
        if stands is not None and tuple(stands) == (entry.at, by, note):  # else another process was first
            advance(connection)
            add_entries(connection, [entry])
    if stands is None or not keep_paused(connection, [imei]):  # it was resumed between two commits
        return (entry.at, by, note), None
    # Who takes passes over what is being marked, and must not have what is behind it leave.
    be_only_taker(connection)
    parked = connection.scalars(_PARK, {"device": imei, "behind": behind, "limit": _AT_ONCE}).all()
    return tuple(stands), max(parked) if len(parked) == _AT_ONCE else None


def _paused(_: PauseQueue, paused: _Paused) -> Parked | None:
    return None if paused is None else Parked(Pause(*paused[0]), paused[1])


def _resume(connection: Connection, entries: Sequence[Entry]) -> Sequence[bool]:
    resumed = {str(entry.imei): _resume_one(connection, entry) for entry in sorted(entries, key=_named_in)}
    return [resumed[str(entry.imei)] for entry in entries]


def _named_in(entry: Entry) -> str:
    return str(entry.imei)


def _resume_one(connection: Connection, entry: Entry) -> bool:
    imei = str(entry.imei)
    if not connection.execute(_RESUME, {"device": imei, "at": entry.at}).rowcount:
        return False
    add_entries(connection, [entry])
    _let_leave(connection, imei, _AT_ONCE)
    return True


PAUSE_QUEUE: Final[Kind[PauseQueue, Parked | None]] = Kind("pause_queue", _pause, named=_paused)
RESUME_QUEUE: Final[Kind[Entry, bool]] = Kind("resume_queue", _resume)
