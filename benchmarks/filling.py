"""Many finished messages, written past the gateway: what a fleet leaves behind in years."""

import contextlib
import random
import sys
import time
from pathlib import Path
from typing import Final

import pysqlite3.dbapi2 as sqlite

from chapar.store.migrations import migrate

DEVICES: Final = 10_000
_AT_ONCE: Final = 500_000  # rows in a transaction
_APART: Final = 50  # ms between two messages: ten million are six days of a busy fleet

_COUNT: Final = "WITH RECURSIVE number(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM number WHERE n < :last)"
_ID: Final = "printf('%08x-%04x-7000-8000-%012x', (:start + n * :apart) >> 16, (:start + n * :apart) & 65535, n)"
_IMEI: Final = f"printf('86%013d', n * 7919 % {DEVICES})"
_IS_OVER: Final = "n % 100 = 0"  # of each hundred, one was not published

_MESSAGES: Final = f"""
INSERT INTO messages (id, imei, micro_op, topic, qos, retain, at_most_once, status, reason, reason_code, attempts,
                      possible_duplicate, created_at, expires_at, published_at, finished_at)
{_COUNT}
SELECT {_ID}, {_IMEI}, 'push_down', 'devices/' || {_IMEI}, 1, 0, 0, iif({_IS_OVER}, 'rejected', 'published'),
       iif({_IS_OVER}, 'broker_unreachable', NULL), iif({_IS_OVER}, NULL, 16), 1, 0, :start + n * :apart,
       :start + n * :apart + 3600000, iif({_IS_OVER}, NULL, :start + n * :apart + 9), :start + n * :apart + 9
FROM number
"""  # noqa: S608 - all of it is ours
_AUDIT: Final = f"""
INSERT INTO audit (at, principal, name, address, action, subject, imei, micro_op)
{_COUNT}
SELECT :start + n * :apart, '', '', '127.0.0.1', 'message_sent', {_ID}, {_IMEI}, 'push_down' FROM number
"""  # noqa: S608 - likewise


def fill(file: Path, rows: int) -> None:
    """Make a database with so many finished messages, and as many entries of the audit trail."""
    migrate(f"sqlite:///{file}")
    start = int(time.time() * 1000) - rows * _APART - 60_000
    with contextlib.closing(sqlite.connect(str(file), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = off")
        connection.execute("PRAGMA cache_size = -1000000")
        for first in range(1, rows + 1, _AT_ONCE):
            given = {"first": first, "last": min(first + _AT_ONCE - 1, rows), "start": start, "apart": _APART}
            connection.execute("BEGIN")
            connection.execute(_MESSAGES, given)
            connection.execute(_AUDIT, given)
            connection.execute("COMMIT")
            sys.stderr.write(f"chapar: {given['last']:,} of {rows:,} rows\n")
        connection.execute("PRAGMA synchronous = full")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def some_ids(file: Path, count: int) -> list[str]:
    """Ids of so many messages or of all, drawn by lot."""
    with contextlib.closing(sqlite.connect(str(file))) as connection:
        [(newest,)] = connection.execute("SELECT max(seq) FROM messages")
        drawn = random.Random(1).sample(range(1, newest + 1), min(count, newest))
        query = "SELECT id FROM messages WHERE seq = ?"
        return [connection.execute(query, (seq,)).fetchone()[0] for seq in drawn]
