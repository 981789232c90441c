"""The table of messages as it is in the database, read while no gateway runs."""

from typing import Any

from sqlalchemy import select

from chapar.store.database import Role, open_engine
from chapar.store.schema import COLUMNS, messages


def rows_in(database_url: str) -> dict[str, dict[str, Any]]:
    """Every message by its id, in the order of acceptance."""
    engine = open_engine(database_url, Role.READER)
    try:
        with engine.connect() as connection:
            found = connection.execute(select(*COLUMNS).order_by(messages.c.seq)).mappings()
            return {row["id"]: dict(row) for row in found}
    finally:
        engine.dispose()
