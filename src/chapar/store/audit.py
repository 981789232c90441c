"""The audit trail: who did what, from where, when. Rows are added, and nothing else ever happens to them."""

import os
import pwd
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, Connection, Dialect, func, insert, literal, select

from chapar.model.audit import Action, AuditFilters, AuditPage, Entry
from chapar.model.principal import EVERY_SCOPE, EVERYWHERE, Principal, principal_id
from chapar.store.operations import Kind, batch_table, run_batch
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.schema import HOUR, Row, Value, audit, audit_hours

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_LAST: Final = (1 << 63) - 1  # number that an entry may have

_COLUMNS: Final = tuple(audit.c[name] for name in Entry._fields)


class Trail:
    """The audit trail."""

    def __init__(self, commits: "Commits", reporters: "Readers") -> None:
        self._commits = commits
        self._reporters = reporters

    async def add(self, entry: Entry) -> None:
        """Keep an entry that nothing else is committed with."""
        await self._commits.one(ADD_ENTRY, entry)

    async def page(self, filters: AuditFilters, *, before: int | None, limit: int) -> AuditPage:
        """Up to `limit` entries, and `PAGE_BYTES`, newest first, numbered below `before`; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: newest_first(connection, filters, before, limit))


@cache
def _insert_sql(dialect: Dialect) -> str:
    names = list(Entry._fields)
    if dialect.name == "postgresql":
        rows = batch_table({name: audit.c[name].type for name in names})
        return str(insert(audit).from_select(names, select(*rows.c)).compile(dialect=dialect))
    return str(insert(audit).compile(dialect=dialect, column_keys=names))


def add_entries(connection: Connection, entries: Sequence[Row]) -> None:
    """Add entries, or just their fields, in the open transaction: committed with what they record, or not at all."""
    if entries:
        run_batch(connection, _insert_sql(connection.dialect), entries)


def _add_once(connection: Connection, entries: Sequence[Row]) -> Sequence[None]:
    """Add entries that nothing else is committed with; one repeated because its answer was lost is there already."""
    for entry in entries:
        if not connection.execute(select(audit.c.seq).where(*map(_same, _COLUMNS, entry))).first():
            add_entries(connection, [entry])
    return [None] * len(entries)


def _same(column: ColumnElement[Value], value: Value) -> ColumnElement[bool]:
    return column.is_not_distinct_from(value)


def newest_first(connection: Connection, filters: AuditFilters, before: int | None, limit: int) -> AuditPage:
    """Up to `limit` entries, and `PAGE_BYTES`, newest first, of those numbered below `before`."""
    order = audit.c.seq.desc()
    statement = select(audit.c.seq, *_COLUMNS).where(*_conditions(filters)).order_by(order).limit(limit + 1)
    if connection.dialect.name == "sqlite":
        statement = statement.where(*_bounds(filters))
    if before is not None:
        statement = statement.where(audit.c.seq < before)
    found = [(row[0], Entry._make(row[1:])) for row in connection.execute(statement)]
    entries = found[: how_many_fit((entry.size for _, entry in found), limit)]
    return AuditPage(entries, entries[-1][0] if len(entries) < len(found) else None)


def _conditions(filters: AuditFilters) -> list[ColumnElement[bool]]:
    given = {
        "principal": filters.principal and principal_id(filters.principal),
        "action": filters.action,
        "imei": filters.imei,
        "subject": filters.subject and filters.subject.lower(),
    }
    conditions = [audit.c[name] == str(value) for name, value in given.items() if value is not None]
    if filters.since is not None:
        conditions.append(audit.c.at >= filters.since)
    if filters.until is not None:
        conditions.append(audit.c.at < filters.until)
    if filters.reach != EVERYWHERE:  # what is about no device is for those whom nothing narrows
        conditions.append(audit.c.imei.is_not(None))
        conditions += fits_any(audit.c.imei, filters.reach.devices)
        conditions += fits_any(audit.c.micro_op, filters.reach.operations)
    return conditions


def _bounds(filters: AuditFilters) -> list[ColumnElement[bool]]:
    """Between which numbers the entries of a time are, as there is no index by time."""
    hour, first = audit_hours.c
    bounds = []
    if filters.since is not None:
        bounds.append(audit.c.seq >= select(func.min(first)).where(hour >= filters.since // HOUR).scalar_subquery())
    if filters.until is not None:
        last = select(func.coalesce(func.max(first), 0)).where(hour <= filters.until // HOUR).scalar_subquery()
        beyond = select(func.min(first)).where(first > last).scalar_subquery()
        bounds.append(audit.c.seq < func.coalesce(beyond, literal(_LAST)))
    return bounds


def local_user() -> Principal:
    """Return who runs this process, by the real user id that the kernel knows: the environment has no say."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a user without an account, as containers have them
        name = str(uid)
    return Principal(f"cli:{name}", f"{name} (uid {uid})", EVERY_SCOPE)


def entry_of_local_user(at: int, action: Action, detail: str) -> Entry:
    """Make the entry of what the local user did, at the time `at` (ms since the epoch), to the whole database."""
    user = local_user()
    return Entry(at, user.id, user.name, "", action.value, "", detail=detail)


ADD_ENTRY: Final[Kind[Entry, None]] = Kind("add_entry", _add_once)
