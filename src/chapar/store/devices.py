"""The devices: register and describe them, forget them, find them with what is known of them."""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    select,
    text,
    type_coerce,
    union_all,
)

from chapar.errors import NotSaved
from chapar.model.audit import Entry
from chapar.model.device import (
    Device,
    DeviceFilters,
    DevicePage,
    DeviceQueue,
    Edit,
    KnownDevice,
    Pause,
    PresenceCounts,
    QueueState,
    Registration,
    State,
    presence,
    registration,
)
from chapar.model.message import OWED, UNFINISHED, Message, Status
from chapar.model.principal import Reach
from chapar.store.audit import add_entries
from chapar.store.device_search import first_ids, is_believed
from chapar.store.operations import Kind
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.presences import evidence_in, put_all
from chapar.store.receiving import life_down_since
from chapar.store.schema import COLUMNS, IS_OPEN, devices, messages, pauses, presences, sightings, to_message

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers


class Put(NamedTuple):
    """A device that is to be registered or described anew, and what the audit trail says of that."""

    edit: Edit
    entry: Entry
    max_devices: int


class Devices:
    """The registered devices. What is written is answered once it is committed."""

    def __init__(self, commits: "Commits", lookups: "Readers", reporters: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups
        self._reporters = reporters

    async def put_all(self, puts: Sequence[Put], deadline: float) -> list[Registration | NotSaved]:
        """Register or describe many, one after the other, in one commit; raises NotSaved, OutcomeUnknown."""
        return await self._commits.submit(PUT_DEVICE, puts, deadline)

    async def described(self, imeis: Sequence[str]) -> tuple[dict[str, Device], int]:
        """These devices, as far as they are registered, and the number of all there are; raises StoreUnavailable."""
        return await self._lookups.read(
            lambda connection: (
                {imei: device for imei, (device, _) in _described(connection, imeis).items()},
                _count(connection),
            )
        )

    async def delete(self, entry: Entry, deadline: float) -> bool:
        """Forget the device that the entry is about; whether it was registered. Raises NotSaved, OutcomeUnknown."""
        return await self._commits.one(DELETE_DEVICE, entry, deadline)

    async def find(self, imei: str, reach: Reach, now: int) -> KnownDevice | None:
        """All that is known of a device, its queue as far as `reach` goes; None where it is not registered.

        Raises StoreUnavailable.
        """
        return await self._lookups.read(lambda connection: find(connection, imei, reach, now))

    async def owed(self, imei: str, reach: Reach, limit: int) -> list[Message]:
        """The first messages that a device has yet to get or to answer, by acceptance; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: owed(connection, imei, reach, limit))

    async def queue(self, imei: str, reach: Reach) -> QueueState:
        """The queue of a device, registered or not, as far as `reach` goes; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: queue(connection, imei, reach))

    async def page(self, filters: DeviceFilters, *, after: str | None, limit: int, now: int) -> DevicePage:
        """Up to `limit` devices, and `PAGE_BYTES`, by their ids, of those behind `after`; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: page(connection, filters, after, limit, now))

    async def counts(self, reach: Reach, now: int) -> PresenceCounts:
        """Count the devices within reach by their presence; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: counts(connection, reach, now))


_MOST_IN_FLIGHT: Final = 100  # ids that a device's queue names

_stands = and_(pauses.c.imei == devices.c.imei, pauses.c.resumed_at.is_(None))
_KNOWN = (
    select(
        devices,
        presences.c.state,
        presences.c.since,
        presences.c.evidence,
        presences.c.offline_at,
        sightings.c.at.label("seen_at"),
        *(pauses.c[name] for name in ("paused_at", "paused_by", "note")),
    )
    .join_from(devices, presences, presences.c.imei == devices.c.imei, isouter=True)
    .join(pauses, _stands, isouter=True)
    .join(sightings, sightings.c.imei == devices.c.imei, isouter=True)
)


def find(connection: Connection, imei: str, reach: Reach, now: int) -> KnownDevice | None:
    """All that is known of a device, its queue as far as `reach` goes; None where it is not registered."""
    rows = connection.execute(_KNOWN.where(devices.c.imei == imei)).all()
    return next(iter(_known(connection, rows, reach, now)), None)


def page(connection: Connection, filters: DeviceFilters, after: str | None, limit: int, now: int) -> DevicePage:
    """Up to `limit` devices, and `PAGE_BYTES`, in the order of their ids, of those behind `after`."""
    found = connection.execute(_KNOWN.where(devices.c.imei.in_(first_ids(connection, filters, after, limit + 1, now))))
    rows = sorted(found, key=attrgetter("imei"))
    shown = rows[: how_many_fit((len(row.name) + len(row.labels) for row in rows), limit)]
    known = _known(connection, shown, filters.reach, now)
    return DevicePage(known, known[-1].device.imei if len(shown) < len(rows) else None)


def counts(connection: Connection, reach: Reach, now: int) -> PresenceCounts:
    """Count the devices within reach by their presence.

    Only what is registered has a presence, so no join is needed: whatever is neither online nor offline is unknown.
    """
    every = select(func.count()).select_from(devices).where(*fits_any(devices.c.imei, reach.devices))
    found = connection.execute(
        select(
            every.scalar_subquery(),
            func.count().filter(is_believed(State.ONLINE, now)),
            func.count().filter(is_believed(State.OFFLINE, now)),
        )
        .select_from(presences)
        .where(*fits_any(presences.c.imei, reach.devices))
    )
    total, online, offline = map(int, found.one())
    by_state = {State.ONLINE: online, State.OFFLINE: offline, State.UNKNOWN: total - online - offline}
    return PresenceCounts(by_state, presence(None, now, life_down_since(connection, now)).stale)


def owed(connection: Connection, imei: str, reach: Reach, limit: int) -> list[Message]:
    """The first messages, up to `limit`, that a device has yet to get or to answer, in the order of acceptance."""
    each = (select(_first_owed(status, imei, reach, limit).subquery()) for status in OWED)
    first = union_all(*each).subquery()
    places = connection.execute(select(first.c.seq).order_by(first.c.seq).limit(limit)).scalars().all()
    rows = connection.execute(select(*COLUMNS).where(messages.c.seq.in_(places)).order_by(messages.c.seq))
    return [to_message(tuple(row)) for row in rows]


def _first_owed(status: Status, imei: str, reach: Reach, limit: int) -> Select[Any]:
    found = (
        select(messages.c.seq)
        .where(text(IS_OPEN), messages.c.status == status.value, messages.c.imei == imei)
        .where(*fits_any(messages.c.micro_op, reach.operations))
        .order_by(messages.c.seq)
        .limit(limit)
    )
    return _without_clearing(found) if status is Status.SCHEDULED else found


def _known(connection: Connection, rows: Sequence[Row[Any]], reach: Reach, now: int) -> list[KnownDevice]:
    down_since = life_down_since(connection, now)
    queues = _queues(connection, [row.imei for row in rows], reach)
    return [
        KnownDevice(
            _device(row),
            presence(evidence_in(row), now, down_since),
            row.seen_at,
            queues.get(row.imei, DeviceQueue(0, None))._replace(pause=_pause_in(row)),
        )
        for row in rows
    ]


def _device(row: Row[Any]) -> Device:
    return Device(row.imei, row.name or None, row.profile, json.loads(row.labels), row.created_at)


def _pause_in(row: Row[Any]) -> Pause | None:
    return None if row.paused_at is None else Pause(row.paused_at, row.paused_by, row.note)


def queue(connection: Connection, imei: str, reach: Reach) -> QueueState:
    """The queue of a device, registered or not, as far as `reach` goes."""
    found = _queues(connection, [imei], reach).get(imei, DeviceQueue(0, None))
    in_flight = (
        select(messages.c.id)
        .where(text(IS_OPEN), messages.c.status == Status.PUBLISHING.value, messages.c.imei == imei)
        .where(*fits_any(messages.c.micro_op, reach.operations))
        .order_by(messages.c.seq)
        .limit(_MOST_IN_FLIGHT)
    )
    return QueueState(found._replace(pause=pause_of(connection, imei)), list(connection.scalars(in_flight)))


def pause_of(connection: Connection, imei: str) -> Pause | None:
    """The pause of a device's queue that stands."""
    row = connection.execute(select(pauses).where(pauses.c.imei == imei, pauses.c.resumed_at.is_(None))).one_or_none()
    return None if row is None else _pause_in(row)


def _queues(connection: Connection, imeis: Sequence[str], reach: Reach) -> dict[str, DeviceQueue]:
    """The unfinished messages of these devices; an index alone has all of most devices."""
    if not imeis:
        return {}
    each = (_depths(status, imeis, reach) for status in UNFINISHED)
    counted = union_all(*each).subquery()
    depth = func.sum(counted.c.depth)
    together = select(counted.c.imei, type_coerce(depth, BigInteger), func.min(counted.c.first)).group_by(
        counted.c.imei
    )
    found = connection.execute(together).all()
    fronts = [first for _, _, first in found]
    accepted = dict(
        map(tuple, connection.execute(select(messages.c.seq, messages.c.created_at).where(messages.c.seq.in_(fronts))))
    )
    return {imei: DeviceQueue(int(count), accepted[first]) for imei, count, first in found}


def _depths(status: Status, imeis: Sequence[str], reach: Reach) -> Select[Any]:
    counted = (
        select(messages.c.imei, func.count().label("depth"), func.min(messages.c.seq).label("first"))
        .where(text(IS_OPEN), messages.c.status == status.value, messages.c.imei.in_(imeis))
        .where(*fits_any(messages.c.micro_op, reach.operations))
        .group_by(messages.c.imei)
    )
    return _without_clearing(counted) if status is Status.SCHEDULED else counted


def _without_clearing(scheduled: Select[Any]) -> Select[Any]:
    """Leave out what waits to clear a retained message at its expiry: that is nobody's message."""
    return scheduled.where(messages.c.micro_op != "")


_PUT_DEVICE = put_all(devices, "name", "profile", "labels", "changed_at")
_DESCRIBED = select(devices).where(devices.c.imei.in_(bindparam("imeis", expanding=True)))
_COUNT = select(func.count()).select_from(devices)
_FORGET = [delete(table).where(table.c.imei == bindparam("of_device")) for table in (devices, presences, sightings)]


def _described(connection: Connection, imeis: Sequence[str]) -> dict[str, tuple[Device, int]]:
    """These devices, as far as they are registered, and when each was last described anew."""
    rows = connection.execute(_DESCRIBED, {"imeis": imeis})
    return {row.imei: (_device(row), row.changed_at) for row in rows}


def _count(connection: Connection) -> int:
    return int(connection.execute(_COUNT).scalar_one())


def _put(connection: Connection, puts: Sequence[Put]) -> Sequence[Registration]:
    known = _described(connection, [put.edit.imei for put in puts])
    count = _count(connection) if any(put.edit.imei not in known for put in puts) else 0
    results, entries = [], []
    for edit, entry, max_devices in puts:
        before, changed_at = known.get(edit.imei, (None, entry.at))
        after = edit.of(before, entry.at)
        result = registration(before, after, max_devices - count)
        if result in (Registration.MADE, Registration.CHANGED):
            known[edit.imei] = after, entry.at
            entries.append(entry)
            count += before is None
        if before is not None and changed_at == entry.at and result is not Registration.LABELS_EXHAUSTED:
            # It is repeated, because its answer was lost; or comes in the same millisecond.
            result = Registration.MADE if before.created_at == entry.at else Registration.CHANGED
        results.append(result)
    written = [_row(*known[imei]) for imei in dict.fromkeys(str(entry.imei) for entry in entries)]
    if written:
        connection.execute(_PUT_DEVICE[connection.dialect.name], written)
        add_entries(connection, entries)
    return results


def _row(device: Device, changed_at: int) -> dict[str, object]:
    labels = json.dumps(device.labels, ensure_ascii=False)
    return {**device._asdict(), "name": device.name or "", "labels": labels, "changed_at": changed_at}


def _delete(connection: Connection, entries: Sequence[Entry]) -> Sequence[bool]:
    return [_delete_one(connection, entry) for entry in entries]


def _delete_one(connection: Connection, entry: Entry) -> bool:
    registered, *_ = [connection.execute(forget, {"of_device": entry.imei}).rowcount for forget in _FORGET]
    if registered:
        add_entries(connection, [entry])
    return bool(registered)


PUT_DEVICE: Final[Kind[Put, Registration]] = Kind("put_device", _put)
DELETE_DEVICE: Final[Kind[Entry, bool]] = Kind("delete_device", _delete)
