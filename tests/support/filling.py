"""A large table, filled past the gateway: what a year of use leaves behind."""

from sqlalchemy import insert

from chapar.model.message import Status, new_id
from chapar.store.database import Role, open_engine
from chapar.store.schema import messages, to_row
from support.stores import new_message

_AT_ONCE = 10_000  # rows


def fill(database_url: str, count: int) -> None:
    """Insert `count` published messages of 1,000 devices; no gateway may be running on SQLite."""
    engine = open_engine(database_url, Role.MIGRATOR)
    sample = new_message(status=Status.PUBLISHED)
    names = sample._fields
    try:
        for start in range(0, count, _AT_ONCE):
            rows = [
                dict(zip(names, to_row(sample._replace(id=new_id(), imei=f"86{number % 1000:013}")), strict=True))
                for number in range(start, min(start + _AT_ONCE, count))
            ]
            with engine.begin() as connection:
                connection.execute(insert(messages), rows)
    finally:
        engine.dispose()
