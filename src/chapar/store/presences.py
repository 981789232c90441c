"""The presence of devices, as it is stored: evidence that changes now and then, and when each was last seen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Executable, Row, Select, Table, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from chapar.errors import NotSaved
from chapar.model.device import Evidence, Ground, Presence, State, presence
from chapar.store.change_log import quoted
from chapar.store.operations import Kind
from chapar.store.receiving import life_down_since
from chapar.store.schema import devices, presences, sightings

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_READ_AT_ONCE: Final = 1000  # devices, where all are read
_UNKNOWN: Final = State.UNKNOWN.value


class Noted(NamedTuple):
    """Knowledge of a device that has changed."""

    imei: str
    evidence: Evidence | None  #: None: nothing is known of its presence any more
    seen_at: int | None  #: when it last said anything, ms since the epoch
    register_at: int | None = None  #: it is registered then, where it is not and there is room; None: it is not
    max_devices: int = 0  #: so many may be registered


class Track(NamedTuple):
    """The stored presence of a registered device."""

    imei: str
    evidence: Evidence | None
    seen_at: int | None


class StoredPresences:
    """Presences, as the one process that receives from the devices stores them."""

    def __init__(self, commits: "Commits", reporters: "Readers") -> None:
        self._commits = commits
        self._reporters = reporters

    def note(self, noted: Sequence[Noted]) -> asyncio.Future[list[bool | NotSaved]]:
        """Store what has changed of those devices that are registered; whether each is."""
        return self._commits.submit(PRESENCE, noted)

    def sight(self, seen: Sequence[tuple[str, int]]) -> asyncio.Future[list[bool | NotSaved]]:
        """Store when devices were last seen (ms since the epoch), likewise."""
        return self._commits.submit(SIGHTINGS, seen)

    async def tracks(self) -> AsyncIterator[list[Track]]:
        """Every registered device as it is stored, in lists; raises StoreUnavailable."""
        tracks = await self._tracks("")
        while tracks:
            yield tracks
            tracks = await self._tracks(tracks[-1].imei)

    async def _tracks(self, after: str) -> list[Track]:
        return await self._reporters.read(lambda connection: _tracks(connection, after))


def presences_of(connection: Connection, imeis: Sequence[str], now: int) -> dict[str, Presence]:
    """The presence of each of these devices, registered or not, at the time `now`."""
    rows = connection.execute(select(presences).where(presences.c.imei.in_(imeis)))
    known = {row.imei: evidence_in(row) for row in rows}
    down_since = life_down_since(connection, now)
    return {imei: presence(known.get(imei), now, down_since) for imei in imeis}


def evidence_in(row: Row[Any]) -> Evidence | None:
    """The evidence in a row that has its columns; None where they are empty."""
    return None if row.state is None else Evidence(State(row.state), row.since, Ground(row.evidence), row.offline_at)


_TRACKS: Final[Select[*tuple[Any, ...]]] = (
    select(devices.c.imei, *(presences.c[name] for name in Evidence._fields), sightings.c.at.label("seen_at"))
    .join_from(devices, presences, presences.c.imei == devices.c.imei, isouter=True)
    .join(sightings, sightings.c.imei == devices.c.imei, isouter=True)
    .order_by(devices.c.imei)
    .limit(_READ_AT_ONCE)
)


def _tracks(connection: Connection, after: str) -> list[Track]:
    rows = connection.execute(_TRACKS.where(devices.c.imei > after))
    return [Track(row.imei, evidence_in(row), row.seen_at) for row in rows]


def put_all(table: Table, *names: str, where: ColumnElement[bool] | None = None) -> dict[str, Executable]:
    """Statements that insert a device's row into a table, or change these columns of it, `where` that is so."""
    on_postgresql, on_sqlite = postgresql.insert(table), sqlite.insert(table)
    return {
        "postgresql": on_postgresql.on_conflict_do_update(
            index_elements=["imei"], set_={name: on_postgresql.excluded[name] for name in names}, where=where
        ),
        "sqlite": on_sqlite.on_conflict_do_update(
            index_elements=["imei"], set_={name: on_sqlite.excluded[name] for name in names}, where=where
        ),
    }


_PUT_PRESENCE = put_all(presences, *Evidence._fields)
_PUT_SIGHTING = put_all(sightings, "at")
_REGISTER = {
    "postgresql": postgresql.insert(devices).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(devices).on_conflict_do_nothing(),
}
_REGISTERED = select(devices.c.imei).where(devices.c.imei.in_(bindparam("imeis", expanding=True)))
_STATES = select(presences.c.imei, presences.c.state).where(presences.c.imei.in_(bindparam("imeis", expanding=True)))
_COUNT = select(func.count()).select_from(devices)
_FORGET = delete(presences).where(presences.c.imei == bindparam("of_device"))


def _note(connection: Connection, noted: Sequence[Noted]) -> Sequence[tuple[bool, str]]:
    """Return whether each device is registered, and the state that was stored before."""
    imeis = [each.imei for each in noted]
    before = {imei: str(state) for imei, state in connection.execute(_STATES, {"imeis": imeis})}
    known = registered(connection, imeis)
    known |= register(connection, [each for each in noted if each.imei not in known and each.register_at is not None])
    stored = [each for each in noted if each.imei in known]
    _put_sightings(connection, [(each.imei, each.seen_at) for each in stored if each.seen_at is not None])
    evidence = [(each.imei, each.evidence) for each in stored if each.evidence is not None]
    if evidence:
        connection.execute(
            _PUT_PRESENCE[connection.dialect.name],
            [
                {
                    "imei": imei,
                    "state": found.state.value,
                    "since": found.since,
                    "evidence": found.evidence.value,
                    "offline_at": found.offline_at,
                }
                for imei, found in evidence
            ],
        )
    if forgotten := [{"of_device": each.imei} for each in stored if each.evidence is None]:
        connection.execute(_FORGET, forgotten)
    return [(each.imei in known, before.get(each.imei, _UNKNOWN)) for each in noted]


def _is_registered(_: Noted, found: tuple[bool, str]) -> bool:
    return found[0]


def _logged(noted: Sequence[Noted], results: Sequence[tuple[bool, str]]) -> list[str]:
    """Return what the log of changes keeps: the states that have changed."""
    items = []
    for (imei, evidence, *_), (is_registered, before) in zip(noted, results, strict=True):
        after = _UNKNOWN if evidence is None else evidence.state.value
        if is_registered and after != before:
            known = None if evidence is None or after == _UNKNOWN else evidence
            since, ground = ("null", None) if known is None else (known.since, known.evidence.value)
            items.append(f'[null,"{imei}","{before}","{after}",{since},{quoted(ground)}]')
    return items


def registered(connection: Connection, imeis: Sequence[str]) -> set[str]:
    """Those of the devices that are registered."""
    return set(connection.scalars(_REGISTERED, {"imeis": imeis}))


def register(connection: Connection, new: Sequence[Noted]) -> set[str]:
    """Register what there is room for; gives those devices."""
    if not new:
        return set()
    room = max(0, new[0].max_devices - connection.execute(_COUNT).scalar_one())
    registered = new[:room]
    if registered:
        rows = [
            {"imei": each.imei, "created_at": each.register_at, "changed_at": each.register_at} for each in registered
        ]
        connection.execute(_REGISTER[connection.dialect.name], rows)
    return {each.imei for each in registered}


def _sight(connection: Connection, seen: Sequence[tuple[str, int]]) -> Sequence[bool]:
    """Return whether each device is registered."""
    known = registered(connection, [imei for imei, _ in seen])
    _put_sightings(connection, [(imei, at) for imei, at in seen if imei in known])
    return [imei in known for imei, _ in seen]


def _put_sightings(connection: Connection, seen: Sequence[tuple[str, int]]) -> None:
    if seen:
        connection.execute(_PUT_SIGHTING[connection.dialect.name], [{"imei": imei, "at": at} for imei, at in seen])


PRESENCE: Final[Kind[Noted, bool]] = Kind("presence", _note, named=_is_registered, logged=_logged)
SIGHTINGS: Final[Kind[tuple[str, int], bool]] = Kind("sightings", _sight)
