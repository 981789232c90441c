"""The audit trail: who did what, from where, when. Rows are added, and nothing else ever happens to them."""

import os
import pwd
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple, Self

from sqlalchemy import ColumnElement, Connection, Dialect, insert, select

from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import Message
from chapar.model.principal import EVERY_SCOPE, EVERYWHERE, Caller, Principal, Reach
from chapar.store.operations import Kind, batch_table, run_batch
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.schema import Row, Value, audit


class Action(StrEnum):
    """What was done."""

    SENT = "message_sent"  #: A message was accepted, whatever became of it.
    CANCELLED = "message_cancelled"
    KEY_CREATED = "key_created"
    KEY_EXPIRES = "key_expires"  #: A key was given another end.
    KEY_REVOKED = "key_revoked"
    PRUNED = "messages_pruned"  #: Finished messages were removed by `chapar prune`.
    MIGRATED = "schema_migrated"  #: The tables were brought to another revision.

    @classmethod
    def named(cls, name: str, field: str) -> Self:
        """The action with this name; raises FieldInvalid naming those there are."""
        try:
            return cls(name)
        except ValueError:
            every = ", ".join(cls)
            raise FieldInvalid(field, Phrase("rule.one_of", names=every)) from None


class Entry(NamedTuple):
    """One thing that was done. The fields are the columns of the table, in their order, but for `seq`."""

    at: int  #: ms since the epoch
    principal: str  #: who did it; empty for anybody where access is open
    name: str  #: of the principal then, for people
    address: str  #: where it was asked from
    action: str
    subject: str  #: id of the message or the key; empty where it is about the whole database
    imei: str | None = None
    micro_op: str | None = None
    detail: str | None = None  #: what else there is to say

    @property
    def size(self) -> int:
        """Characters of all its texts."""
        return sum(len(field) for field in self if isinstance(field, str))


def cancellation(caller: Caller, message: Message, at: int, why: str | None = None) -> Entry:
    """What the trail says of a message that a caller withdraws."""
    principal = caller.principal
    subject = (message.id, message.imei, message.micro_op)
    return Entry(at, principal.id, principal.name, caller.address, Action.CANCELLED.value, *subject, why)


class AuditFilters(NamedTuple):
    """Which entries are meant: those that fit everything that is given."""

    principal: str | None = None
    action: Action | None = None
    imei: str | None = None
    subject: str | None = None
    since: int | None = None  #: at this time or later, ms since the epoch
    until: int | None = None  #: before this time, ms since the epoch
    reach: Reach = EVERYWHERE


class AuditPage(NamedTuple):
    """Some of the entries that fit, newest first."""

    entries: list[tuple[int, Entry]]  #: with their numbers
    next: int | None  #: `before` of the next page; None: nothing follows


_COLUMNS: Final = tuple(audit.c[name] for name in Entry._fields)


@cache
def _insert_sql(dialect: Dialect) -> str:
    names = list(Entry._fields)
    if dialect.name == "postgresql":
        rows = batch_table({name: audit.c[name].type for name in names})
        return str(insert(audit).from_select(names, select(*rows.c)).compile(dialect=dialect))
    return str(insert(audit).compile(dialect=dialect, column_keys=names))


def add_entries(connection: Connection, entries: Sequence[Row]) -> None:
    """Add entries, or just their fields, in the open transaction: committed with what they tell of, or not at all."""
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
    if before is not None:
        statement = statement.where(audit.c.seq < before)
    found = [(row[0], Entry._make(row[1:])) for row in connection.execute(statement)]
    entries = found[: how_many_fit((entry.size for _, entry in found), limit)]
    return AuditPage(entries, entries[-1][0] if len(entries) < len(found) else None)


def _conditions(filters: AuditFilters) -> list[ColumnElement[bool]]:
    given = {"principal": filters.principal, "action": filters.action, "imei": filters.imei, "subject": filters.subject}
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


def local_user() -> Principal:
    """Whoever runs this process, by the real user id that the kernel knows: the environment has no say."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a user without an account, as containers have them
        name = str(uid)
    return Principal(f"cli:{name}", f"{name} (uid {uid})", EVERY_SCOPE)


def entry_of_local_user(at: int, action: Action, detail: str) -> Entry:
    """What the local user did, at the time `at` (ms since the epoch), to the whole database."""
    user = local_user()
    return Entry(at, user.id, user.name, "", action.value, "", detail=detail)


ADD_ENTRY: Kind[Entry, None] = Kind("add_entry", 6, _add_once)
