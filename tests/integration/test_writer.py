"""What the writer answers where a batch fails: before its COMMIT, at it, or because of one operation."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pysqlite3.dbapi2 as sqlite
import pytest
import sqlalchemy.exc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, func, select

from chapar.errors import StoreUnavailable
from chapar.model.acceptance import Addition
from chapar.model.change import Move
from chapar.model.message import Message, Status
from chapar.store import writer
from chapar.store.acceptance import BACKLOGS_SQL, Packed, packed_addition
from chapar.store.database import Role, open_engine
from chapar.store.messages import find
from chapar.store.migrations import migrate
from chapar.store.moves import move_row
from chapar.store.operations import array
from chapar.store.readers import query_once_more
from chapar.store.schema import messages
from chapar.store.wire import pack
from chapar.store.writer import commit
from support.stores import CLAIM, add_one, new_message, open_store, published, writer_processes


def each(answers: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The answers to the items of all operations."""
    return [item if outcome == "apart" else (outcome, item) for outcome, items in answers for item in items]


def added(message: Message) -> Packed:
    return packed_addition(Addition(message))


IO_ERROR_AT_FSYNC = 1034  # https://sqlite.org/rescode.html
IO_ERROR_AT_WRITE = 778
FULL = 13
BUSY = 5


@pytest.fixture
def engine(database_url: str) -> Engine:
    migrate(database_url)
    return open_engine(database_url, Role.WRITER)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def rows(connection: Connection) -> int:
    with connection.engine.begin() as another:
        return another.execute(select(func.count()).select_from(messages)).scalar_one()


def sqlite_error(code: int) -> sqlite.OperationalError:
    error = sqlite.OperationalError("it failed")
    error.sqlite_errorcode = code
    return error


def test_a_batch_is_answered_in_its_own_order(connection: Connection) -> None:
    first, second = new_message(), new_message()
    commit(connection, [("add", [added(first)])])
    batch = [
        ("add", [added(second)]),
        ("move", [move_row(Move(first, published(first), 0))]),
        ("move", [move_row(Move(second, published(second), 0))]),
        ("check", [()]),
    ]
    answers, usable = commit(connection, batch)
    assert answers == [("committed", [result]) for result in (None, True, False, None)]
    assert usable


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("field", [{"attempts": 1 << 70}, {"imei": None}, {"topic": "\udcff"}])
def test_an_operation_with_an_impossible_value_fails_alone_and_for_good(
    connection: Connection, field: dict[str, Any], *, together: bool
) -> None:
    bad = new_message(**{"imei": "A", **field})
    asked = [added(message) for message in (new_message(), bad, new_message())]
    answers, usable = commit(connection, [("add", asked)] if together else [("add", [one]) for one in asked])
    assert [item[0] for item in each(answers)] == ["committed", "not_saved", "committed"]
    assert [answer[0] for answer in answers] == (["apart"] if together else ["committed", "apart", "committed"])
    assert usable
    assert rows(connection) == 2


# Kind, message, the state that a move believes in, and the one it makes.
OPERATIONS = st.tuples(st.sampled_from(["add", "move"]), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(OPERATIONS, min_size=1, max_size=6), max_size=8))
def test_whatever_shares_a_batch_the_table_is_as_if_each_was_done_alone(
    connection: Connection, batches: list[list[tuple[str, int, int, int]]]
) -> None:
    new = [message._replace(imei=message.id) for message in (new_message(), new_message(), new_message())]
    states = [[message, message.moved(Status.QUEUED)._replace(claim=None), published(message)] for message in new]
    table: dict[int, Message] = {}

    def as_row(kind: str, key: int, before: int, after: int) -> tuple[str, object]:
        if kind == "add":
            return kind, added(new[key])
        return kind, move_row(Move(states[key][before], states[key][after], 0))

    def expected(kind: str, key: int, before: int, after: int) -> bool | tuple[object, ...] | None:
        if kind == "add":
            if key not in table:
                table[key] = new[key]
                return None  # added as asked
            return table[key].status, table[key].claim, None, "text", []
        if table.get(key) not in {states[key][before], states[key][after]}:
            return False
        table[key] = states[key][after]
        return True

    for batch in batches:
        moves_first = sorted(range(len(batch)), key=lambda position: batch[position][0], reverse=True)
        results = {position: expected(*batch[position]) for position in moves_first}
        rows = groupby((as_row(*operation) for operation in batch), key=itemgetter(0))
        answers, _ = commit(connection, [(kind, [row for _, row in together]) for kind, together in rows])
        assert each(answers) == [("committed", results[position]) for position in range(len(batch))]
    with connection.begin():
        found = {key: find(connection, message.id) for key, message in enumerate(new)}
    assert found == {key: table.get(key) for key in range(3)}


def test_what_devices_have_unfinished_is_found_by_device_however_much_of_it_there_is(connection: Connection) -> None:
    for status in (Status.PUBLISHED, Status.PUBLISHED, Status.QUEUED):
        of_devices = [new_message(f"D{number % 400}", status, claim=None) for number in range(4000)]
        commit(connection, [("add", [added(message)]) for message in of_devices])
    dialect = connection.dialect.name
    explain = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN "
    if dialect == "postgresql":
        connection.exec_driver_sql("ANALYZE messages")
    devices = json.dumps(["D1", "D2"]) if dialect == "sqlite" else array(["D1", "D2"])
    plan = str(connection.exec_driver_sql(explain + BACKLOGS_SQL[dialect], (CLAIM, devices, devices, devices)).all())
    assert "ix_messages_unfinished" in plan
    assert ("(status=? AND imei=? AND seq>?)" if dialect == "sqlite" else "AND ((imei)::text = ANY") in plan


def test_a_batch_that_fails_before_its_commit_left_nothing(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE messages RENAME TO elsewhere")
    connection.commit()
    [answer], usable = commit(connection, [("add", [added(new_message())])])
    assert answer[0] == "not_saved"
    assert usable
    connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO messages")
    connection.commit()
    assert commit(connection, [("add", [added(new_message())])]) == ([("committed", [None])], True)


def fail_at_commit(connection: Connection, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_connection: object) -> NoReturn:
        raise error

    monkeypatch.setattr(connection.dialect, "do_commit", fail)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("code", "outcome", "usable"),
    [
        (FULL, "not_saved", True),
        (BUSY, "not_saved", True),
        (IO_ERROR_AT_FSYNC, "unknown", False),
        (IO_ERROR_AT_WRITE, "unknown", False),
    ],
)
def test_what_a_failed_commit_of_sqlite_means(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str, *, usable: bool
) -> None:
    fail_at_commit(connection, monkeypatch, sqlite_error(code))
    [answer], still_usable = commit(connection, [("add", [added(new_message())])])
    assert answer[0] == outcome
    assert still_usable is usable


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (psycopg.errors.SerializationFailure("it failed"), "not_saved"),
        (psycopg.errors.AdminShutdown("it failed"), "unknown"),
        (psycopg.errors.IoError("it failed"), "unknown"),
        (psycopg.OperationalError("the connection is lost"), "unknown"),
    ],
)
def test_what_a_failed_commit_of_postgresql_means(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    fail_at_commit(connection, monkeypatch, error)
    [answer], _ = commit(connection, [("add", [added(new_message())])])
    assert answer[0] == outcome


def every_database_error() -> Iterator[Exception]:
    for kind in vars(sqlalchemy.exc).values():
        if isinstance(kind, type) and issubclass(kind, sqlalchemy.exc.DBAPIError):
            yield kind("SELECT 1", (), Exception("it failed"))
        elif kind is sqlalchemy.exc.StatementError:
            yield kind("it failed", "SELECT 1", (), Exception())
        elif isinstance(kind, type) and issubclass(kind, sqlalchemy.exc.SQLAlchemyError):
            error = kind.__new__(kind)
            error.args = ("it failed",)
            yield error


@pytest.mark.parametrize("error", list(every_database_error()), ids=lambda error: type(error).__name__)
def test_no_error_of_the_database_library_leaves_the_store(error: Exception) -> None:
    def fail(_connection: Connection) -> NoReturn:
        raise error

    with pytest.raises(StoreUnavailable, match="it failed"):
        query_once_more(open_engine("sqlite:////dev/null", Role.READER), fail)


async def test_the_writer_ends_with_its_gateway_and_at_no_polite_signal(sqlite_url: str) -> None:
    async with open_store(sqlite_url) as store:
        await store.health.check(60)
        [process] = writer_processes()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process, number)
        await add_one(store, new_message())
        assert writer_processes() == [process]


def test_the_writer_loads_nothing_that_only_a_gateway_needs() -> None:
    """Callers wait while it starts."""
    code = "import sys, chapar.store.writer; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"structlog", "prometheus_client", "chapar.store.commits", "chapar.store.reports"}.intersection(loaded)


async def test_the_writers_command_line_and_environment_name_no_secret(postgres_url: str) -> None:
    secret = "not-asked-for-but-given"
    url = postgres_url.replace("postgres@", f"postgres:{secret}@")
    async with open_store(url) as store:
        await store.health.check(60)
        [process] = writer_processes()
        shown = b"".join(Path(f"/proc/{process}/{file}").read_bytes() for file in ("cmdline", "environ"))  # noqa: ASYNC240 - no disk
        assert secret.encode() not in shown


async def test_a_writer_is_handed_a_descriptor_of_any_number(database_url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1100):  # as many connections
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            async with open_store(database_url) as store:
                message = new_message()
                async with asyncio.timeout(30):
                    await add_one(store, message)
                assert await store.messages.find(message.id) == message
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_writer_that_loses_its_connection_answers_what_was_asked_meanwhile(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(sqlite_url)
    monkeypatch.setattr(writer, "commit", lambda *_: ([("unknown", "it failed")], False))
    monkeypatch.setattr(writer, "empty_wal", lambda _connection: False)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as threads:
        ours.settimeout(60)
        ours.sendall(pack((sqlite_url, None, None)) + pack((1, False, ("check", [()]))) + pack(()))
        served = threads.submit(writer.serve, theirs)
        frames = [writer._receive(ours) for _ in range(4)]
        ours.shutdown(socket.SHUT_RDWR)
        served.result(60)
    assert [frame[0] for frame in frames if frame is not None] == ["ready", "answers", "alive", "down"]
    assert "cannot be made safe" in str(frames[-1])
