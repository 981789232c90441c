"""The table of messages, read from the database itself while no gateway runs."""

from typing import NamedTuple

from sqlalchemy import select

from chapar.store.database import Role, open_engine
from chapar.store.schema import attempts, messages
from faults.ledger import number_of


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

    @property
    def number(self) -> int:
        return number_of(self.micro_op)


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
    engine = open_engine(database_url, Role.READER)
    try:
        with engine.connect() as connection:
            return [Row._make(row) for row in connection.execute(select(*columns).order_by(messages.c.seq))]
    finally:
        engine.dispose()


def attempts_of(database_url: str, message_id: str) -> list[Attempt]:
    """The attempts at one message."""
    columns = [attempts.c[name] for name in Attempt._fields]
    engine = open_engine(database_url, Role.READER)
    try:
        with engine.connect() as connection:
            found = connection.execute(select(*columns).where(attempts.c.message_id == message_id))
            return [Attempt._make(row) for row in found]
    finally:
        engine.dispose()
