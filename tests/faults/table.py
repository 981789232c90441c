"""The tables of messages and replies, read from the database itself."""

import contextlib
import json
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, select, text

from chapar.store.database import Role, open_engine
from chapar.store.schema import IS_AWAITED, attempts, changes, messages, replies
from faults.ledger import number_of

_SHOWN: Final = 20  # offenders


class Row(NamedTuple):
    """What the database says of one message."""

    seq: int
    id: str
    imei: str
    micro_op: str
    at_most_once: bool
    status: str
    reason: str | None
    reason_code: int | None
    attempts: int
    possible_duplicate: bool
    created_at: int
    deliver_at: int | None
    expires_at: int | None
    published_at: int | None
    finished_at: int | None
    reply_within: int | None = None
    reply: str | None = None
    condition: str | None = None
    contact_until: int | None = None
    collapse_key: str | None = None
    superseded_by: str | None = None
    urgent: bool = False

    @property
    def number(self) -> int:
        return number_of(self.micro_op)


class StoredReply(NamedTuple):
    """A reply as it is stored, in its message or in the table of the others."""

    imei: str
    message_id: str | None
    status: str | None
    sha256: str
    times: int  #: how often the same came
    reason: str | None = None  #: why it belongs to no message


class Attempt(NamedTuple):
    """An attempt that was not the plain first success."""

    message_id: str
    attempt: int
    at: int
    process: str
    outcome: str


def rows_of(database_url: str) -> list[Row]:
    """Every message, in the order of acceptance."""
    columns = [messages.c[name] for name in Row._fields]
    with _reading(database_url) as connection:
        return [Row._make(row) for row in connection.execute(select(*columns).order_by(messages.c.seq))]


def replies_of(database_url: str) -> list[StoredReply]:
    """Every reply: those that stand, and the others."""
    standing = select(messages.c.imei, messages.c.id, messages.c.reply).where(messages.c.reply.is_not(None))
    columns = (replies.c[name] for name in ("imei", "message_id", "status", "sha256", "count", "reason"))
    with _reading(database_url) as connection:
        found = [StoredReply._make(row) for row in connection.execute(select(*columns))]
        for imei, message_id, packed in connection.execute(standing):
            reply = json.loads(packed)
            found.append(StoredReply(imei, message_id, reply["status"], reply["sha256"], reply["times"]))
    return found


def is_stored(database_url: str, sha256: str) -> bool:
    """Whether a reply with these bytes is among those that belong to no message."""
    with _reading(database_url) as connection:
        return connection.execute(select(replies.c.seq).where(replies.c.sha256 == sha256)).first() is not None


def awaited(database_url: str) -> int:
    """How many messages have yet to be answered."""
    with _reading(database_url) as connection:
        return connection.execute(select(func.count()).select_from(messages).where(text(IS_AWAITED))).scalar_one()


def attempts_of(database_url: str, message_id: str) -> list[Attempt]:
    """The attempts at one message."""
    columns = [attempts.c[name] for name in Attempt._fields]
    with _reading(database_url) as connection:
        found = connection.execute(select(*columns).where(attempts.c.message_id == message_id))
        return [Attempt._make(row) for row in found]


@contextlib.contextmanager
def _reading(database_url: str) -> Iterator[Connection]:
    engine = open_engine(database_url, Role.READER)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


class Logged(NamedTuple):
    """One change, as the log in the database has it."""

    id: str
    imei: str
    before: str | None
    after: str


def changes_of(url: str) -> list[Logged]:
    """All changes of messages, in the order of the log."""
    with _reading(url) as connection:
        rows = connection.execute(select(changes.c.moved).order_by(changes.c.seq)).scalars().all()
    return [Logged(*item[:4]) for moved in rows for item in json.loads(moved) if item[0] is not None]


def broken_chains(url: str) -> list[str]:
    """Messages whose changes do not lead from nothing to the state in which they are."""
    logged = changes_of(url)
    states: dict[str, str | None] = {}
    wrong = []
    for each in logged:
        was = states.get(each.id)
        if was != each.before:
            wrong.append(f"the log moves {each.id} from {each.before} to {each.after}, and it was {was}")
        states[each.id] = each.after
    with _reading(url) as connection:
        rows = {row.id: row.status for row in connection.execute(select(messages.c.id, messages.c.status))}
    differing = [id_ for id_ in {*rows, *states} if rows.get(id_) != states.get(id_)]
    wrong += [f"{id_} is {rows.get(id_)}, and the log says {states.get(id_)}" for id_ in differing]
    return wrong[:_SHOWN]
