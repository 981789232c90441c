"""The hot statements take plain tuples, so the order of their parameters is a contract."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Dialect

from chapar.errors import SettingInvalid
from chapar.model.acceptance import Addition
from chapar.model.change import Move
from chapar.model.message import MUTABLE, UNFINISHED, Message, Status, clearing
from chapar.model.queue import Lease
from chapar.store import reports
from chapar.store.acceptance import BACKLOGS_SQL, LANES_SQL
from chapar.store.database import Role, open_engine, parse, sqlite_file
from chapar.store.insertion import insert_sql
from chapar.store.lanes import MISPLACED_SQL
from chapar.store.moves import move_row, update_sql
from chapar.store.operations import array
from chapar.store.queue import Settle, Take
from chapar.store.retained import TakeBack
from chapar.store.schema import (
    COLUMNS,
    IS_UNFINISHED,
    has_status,
    is_short,
    messages,
    metadata,
    shortened,
    to_message,
    to_row,
    to_short_row,
    whole,
)
from chapar.store.wire import pack, split, unpack
from support.fakes import EPOCH
from support.memory_database import MemoryDatabase
from support.stores import PROCESS, new_message, published

TEXT_ARRAY = psycopg.adapters.types["text"].array_oid


@pytest.fixture(params=["sqlite:///x.db", "postgresql://host/x"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return open_engine(request.param, Role.WRITER).dialect


def test_the_columns_are_seq_and_then_the_fields_of_a_message() -> None:
    assert [column.name for column in messages.columns] == ["seq", "sent_by", *Message._fields, "wake_at"]
    assert [column.name for column in COLUMNS] == list(Message._fields)


def test_a_move_may_change_everything_but_what_was_accepted() -> None:
    accepted = {"id", "imei", "micro_op", "params", "topic", "qos", "retain", "at_most_once", "created_at"}
    accepted |= {"deliver_at", "expires_at", "origin"}
    accepted |= {"reply_within", "profile", "condition", "collapse_key", "urgent"}
    others = {"reply", "superseded_by"}  # replies and newer messages change these, whoever has claimed the message
    assert set(MUTABLE) == set(Message._fields) - accepted - others


def test_a_query_of_the_unfinished_names_each_of_their_statuses() -> None:
    assert set(re.findall(r"'(\w+)'", IS_UNFINISHED)) == {status.value for status in UNFINISHED}


def test_a_query_by_status_says_word_by_word_what_the_index_is_for_that_has_them() -> None:
    whole = {str(index.name): str(index.dialect_options["sqlite"]["where"]) for index in messages.indexes}
    for status in Status:
        name = "ix_messages_unfinished" if status is Status.PUBLISHING else "ix_messages_status_seq"
        assert whole[name] in str(has_status([status]))
    assert all(whole[name] in str(has_status(Status)) for name in ("ix_messages_unfinished", "ix_messages_status_seq"))


def test_every_name_of_the_schema_is_within_the_limit_of_postgresql() -> None:
    assert all(len(str(index.name)) <= 63 for table in metadata.tables.values() for index in table.indexes)


def test_a_message_becomes_a_row_and_back() -> None:
    message = new_message(params='{"a": 1}', subscribers=True, reason_code=16, status=Status.QUEUED)
    row = to_row(message)
    assert type(row[Message._fields.index("status")]) is str
    assert to_message(row) == message


@pytest.mark.parametrize("fields", [{}, {"reply_within": 1}, {"urgent": True}, {"deliver_at": EPOCH}])
def test_a_short_row_leaves_out_what_has_its_default(fields: dict[str, Any]) -> None:
    message = new_message(status=Status.QUEUED, **fields)
    row = to_short_row(message)
    assert type(row[Message._fields.index("status")]) is str
    assert is_short(row) is (not fields)
    assert row == shortened(to_row(message))
    assert to_message(whole(row)) == message


def test_a_field_that_a_short_row_leaves_out_has_the_default_of_its_column() -> None:
    for name, default in Message._field_defaults.items():
        column = messages.c[name]
        kept = None if column.server_default is None else str(column.server_default.arg).strip("'")
        assert kept == (None if default is None else str(default).lower())
        assert column.nullable is (default is None)


def test_the_parameters_of_the_insert_of_short_rows_are_their_fields_in_order(dialect: Dialect) -> None:
    short = to_short_row(new_message())
    names = re.search(r"INSERT INTO messages \(([^)]*)\)", insert_sql(dialect, len(short)))
    assert names is not None
    number = ["seq"] if dialect.name == "sqlite" else []
    assert names[1].split(", ") == [*number, "sent_by", *Message._fields[: len(short)]]


def test_the_parameters_of_the_insert_are_the_fields_in_order(dialect: Dialect) -> None:
    sql = insert_sql(dialect)
    names = re.search(r"INSERT INTO messages \(([^)]*)\)", sql)
    assert names is not None
    number = ["seq"] if dialect.name == "sqlite" else []
    assert names[1].split(", ") == [*number, "sent_by", *Message._fields]
    assert len(re.findall(r"\?|%s", sql)) == len([*number, "sent_by", *to_row(new_message())])


def test_the_parameters_of_the_update_are_the_values_of_a_move_in_order(dialect: Dialect) -> None:
    sql = update_sql(dialect)
    guards = ["id", "status", "attempts", "claim"]
    if dialect.name == "postgresql":
        order = re.search(r"AS batch\(([^)]*)\)", sql)
        assert order is not None
        assert order[1].split(", ") == [f"after_{name}" for name in MUTABLE] + [f"before_{name}" for name in guards]
    else:
        assert re.findall(r"(\w+)(?: \|\| ''\))?(?:=| = | IS )\?", sql) == [*MUTABLE, *guards]
    before = new_message()
    after = published(before)
    expected = [getattr(after, name) for name in MUTABLE] + [getattr(before, name) for name in guards]
    assert list(move_row(Move(before, after, EPOCH))) == [*expected, before.imei, EPOCH, False, True]
    assert move_row(Move(before, after._replace(reply_by=EPOCH), EPOCH))[-1] is False


def test_what_a_partial_index_is_for_stands_in_the_query_of_the_lanes_word_by_word() -> None:
    (index,) = [index for index in messages.indexes if index.name == "ix_messages_unfinished"]
    for dialect, sql in [*BACKLOGS_SQL.items(), *LANES_SQL.items(), *MISPLACED_SQL.items()]:
        assert str(index.dialect_options[dialect]["where"]) in sql


@pytest.mark.parametrize("text", ["", "null", "NULL", " a ", "{a,b}", 'a"b', "a\\b", "a\nb\tc", "د", "🙂", '\\"'])
def test_postgresql_reads_an_array_as_it_was_written(text: str) -> None:
    read = psycopg.adapt.Transformer().get_loader(TEXT_ARRAY, psycopg.pq.Format.TEXT).load(array([text, None]).encode())
    assert read == [text, None]


def test_frames_are_cut_wherever_the_socket_cuts_them() -> None:
    frames = [("ready",), ("committed", [None, True]), ()]
    stream = b"".join(map(pack, frames))
    for size in range(1, len(stream) + 1):
        found, rest = [], b""
        for start in range(0, len(stream), size):
            bodies, rest = split(rest + stream[start : start + size])
            found += map(unpack, bodies)
        assert found == frames
        assert rest == b""


@pytest.mark.parametrize("time", [0, 1_795_491_035_341, (1 << 48) - 1])
def test_the_first_id_of_a_millisecond_sorts_before_every_id_of_it(time: int) -> None:
    digits = f"{time:012x}"
    lowest = f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"
    assert reports.first_id(time) <= lowest
    assert time == 0 or reports.first_id(time) > f"{time - 1:012x}"[:8]


def test_a_time_beyond_an_ids_reach_is_the_nearest_within() -> None:
    assert reports.first_id(-5) == "00000000-0000"
    assert reports.first_id(1 << 60) == "ffffffff-ffff"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///a%00b.db",
        "secret",
        "postgresql://me:secret@host:port/x",
        "postgresql://me:secret%00@host/x",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        parse(url)
    assert caught.value.setting == "CHAPAR_DATABASE_URL"
    assert "secret" not in str(caught.value).replace("user:secret@host", "")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_postgresql_is_reached_through_psycopg_3_however_its_url_begins(scheme: str) -> None:
    url = parse(f"{scheme}://user:secret@host/name?sslmode=verify-full")
    assert url.drivername == "postgresql+psycopg"
    assert url.query["sslmode"] == "verify-full"


def test_a_relative_file_is_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_file("sqlite:///chapar.db") == tmp_path / "chapar.db"
    assert sqlite_file("sqlite:////var/lib/chapar.db").as_posix() == "/var/lib/chapar.db"


def test_sqlite_plans_the_statements_of_the_queue_once() -> None:
    database = MemoryDatabase(lambda: EPOCH)
    planned: list[object] = []
    # SQLite asks for leave while it plans a statement.
    database.driver.set_authorizer(lambda *what: planned.append(what) or 0)
    for number in range(3):
        retained = new_message(f"A{number}", Status.PUBLISHED, claim=None, retain=True, finished_at=EPOCH)
        queued = new_message(f"B{number}", Status.QUEUED, claim=None, attempts=0)
        database.put(retained)
        for operation in (
            ("acquire_lease", Lease(PROCESS, "a test", 5, alone=True)),
            ("add", Addition(queued)),
            ("take_back", TakeBack(clearing(retained, EPOCH * 1_000_000), None)),
            ("take", Take(f"{PROCESS}.{number}", 100, EPOCH)),
            ("settle", Settle(PROCESS, EPOCH)),
            ("move", Move(queued, queued.moved(Status.CANCELLED), EPOCH)),
        ):
            planned.clear()
            database.ask(operation)
            assert number == 0 or len(planned) == 1, operation  # BEGIN always is
