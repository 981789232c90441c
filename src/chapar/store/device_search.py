"""The search for devices: the ids of those that fit, whatever else is known of them."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select
from sqlalchemy.dialects import postgresql

from chapar.errors import ascii_digits
from chapar.model.device import GRACE, DeviceFilters, State
from chapar.store.patterns import fits_any
from chapar.store.schema import devices, presences

_FEW: Final = 2000  # devices that are found one by one sooner than by going through all


def first_ids(connection: Connection, filters: DeviceFilters, after: str | None, limit: int, now: int) -> Sequence[str]:
    """The ids of the first devices that fit, behind `after`: few may fit of very many."""
    conditions, state = _conditions(connection, filters), filters.state
    every = select(devices.c.imei).where(*conditions)
    if state is None:
        return _first(connection, every, after, limit, in_order=not conditions)
    both = every.join_from(devices, presences, presences.c.imei == devices.c.imei, isouter=True)
    both = both.where(is_believed(state, now))
    if connection.dialect.name == "postgresql":
        # Where none is unknown, it goes through both tables faster than through both indexes.
        in_order = not conditions and state is not State.UNKNOWN
        return _first(connection, both, after, limit, in_order=in_order)
    # SQLite seeks a row of one table for each of the other: not for all, where few are in that state, or most fit.
    believed = _believed(state, now)
    few = [imei for found in believed for imei in connection.scalars(found.limit(_FEW))]
    if len(few) < _FEW:
        return _first(connection, every.where(devices.c.imei.in_(few)), after, limit, in_order=True)
    next_ids = select(devices.c.imei).where(devices.c.imei > (after or "")).order_by(devices.c.imei).limit(_FEW)
    found = _first(connection, both.where(devices.c.imei.in_(next_ids)), after, limit, in_order=True)
    if len(found) == limit:
        return found
    if conditions:
        return _first(connection, both, after, limit, in_order=False)
    firsts = (_first(connection, found, after, limit, in_order=False) for found in believed)
    return sorted(chain.from_iterable(firsts))[:limit]


def _believed(state: State, now: int) -> list[Select[Any]]:
    """The ids of the devices of which `presence` says this, of either table; only what is registered has a presence."""
    stored = select(presences.c.imei).where(is_believed(state, now))
    if state is not State.UNKNOWN:
        return [stored]
    without = select(devices.c.imei).except_(select(presences.c.imei)).subquery()  # walks the two indexes side by side
    return [stored, select(without.c.imei)]


def _first(
    connection: Connection, found: Select[Any], after: str | None, limit: int, *, in_order: bool
) -> Sequence[str]:
    # What an index does not have is read row by row: in the index's order, each lies elsewhere, and few may fit. The
    # empty string keeps planners off it.
    [imei] = found.selected_columns
    place = imei if in_order else imei.concat("")
    if after is not None:
        found = found.where(place > after)
    return connection.scalars(found.order_by(place).limit(limit)).all()


def _conditions(connection: Connection, filters: DeviceFilters) -> list[ColumnElement[bool]]:
    """All but the state, which another table has."""
    conditions = fits_any(devices.c.imei, filters.reach.devices)
    if filters.profile is not None:
        profile = func.coalesce(devices.c.profile, filters.default_profile)
        conditions.append(profile == filters.profile)
    if filters.text is not None:
        is_in_id = _contains(connection, devices.c.imei, ascii_digits(filters.text))
        conditions.append(or_(is_in_id, _contains(connection, devices.c.name, filters.text)))
    if filters.imeis is not None:
        conditions.append(devices.c.imei.in_(filters.imeis))
    conditions += (_has_label(connection, name, value) for name, value in filters.labels)
    return conditions


def is_believed(state: State, now: int) -> ColumnElement[bool]:
    """The condition that `presence` says this of a device."""
    at = presences.c.offline_at
    is_doubted = and_(at.is_not(None), func.abs(now - at) >= GRACE)
    stored = func.coalesce(presences.c.state, State.UNKNOWN.value) == state.value
    return or_(is_doubted, stored) if state is State.OFFLINE else and_(~is_doubted, stored)


def _contains(connection: Connection, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """The condition that a column has a text in it, whatever the case of its ASCII letters."""
    if connection.dialect.name != "postgresql":
        return column.contains(text, autoescape=True)  # there, LIKE does not know the case of ASCII letters
    # By the rules of a language, lower case takes several times as long.
    return func.lower(column.collate("C")).contains(text.encode().lower().decode(), autoescape=True)


def _has_label(connection: Connection, name: str, value: str) -> ColumnElement[bool]:
    # Most labels are not read as JSON: without the value in it, a text has no such label.
    may_have = devices.c.labels.contains(json.dumps(value, ensure_ascii=False), autoescape=True)
    return and_(may_have, _says_label(connection, name, value))


def _says_label(connection: Connection, name: str, value: str) -> ColumnElement[bool]:
    if connection.dialect.name == "postgresql":
        return func.jsonb_extract_path_text(devices.c.labels.cast(postgresql.JSONB), name) == value
    labels = func.json_each(devices.c.labels).table_valued("key", "value")
    return exists().select_from(labels).where(labels.c.key == name, labels.c.value == value)
