"""Pages of a SQLite file that a lone send writes: its disk is an SD card on many boards."""

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from chapar.model.acceptance import Addition, Sender
from chapar.model.change import Move
from chapar.model.message import Message
from chapar.model.reply import ReceivedReply, read_reply
from chapar.store import writer
from chapar.store.acceptance import ADD
from chapar.store.change_log import Recorder
from chapar.store.commits import LARGEST_BATCH
from chapar.store.database import Role, open_engine, sqlite_file
from chapar.store.migrations import migrate
from chapar.store.moves import MOVE
from chapar.store.operations import Kind
from chapar.store.replies import RECEIVE
from support.stores import new_message, now, published

SENDS = 200
_PAGE = 2048
_WAL_HEADER, _FRAME = 32, 24 + _PAGE  # https://sqlite.org/fileformat2.html#the_write_ahead_log


@contextmanager
def lone_writer(sqlite_url: str) -> Iterator[Connection]:
    """The writer's connection, whose log keeps all that it commits."""
    migrate(sqlite_url)
    with open_engine(sqlite_url, Role.WRITER).connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        assert connection.exec_driver_sql("PRAGMA page_size").scalar_one() == _PAGE
        connection.rollback()
        yield connection


def commits_in(log: Path) -> list[int]:
    """How many pages each commit in the log wrote."""
    frames = log.read_bytes()[_WAL_HEADER:]
    commits, pages = [], 0
    for start in range(0, len(frames), _FRAME):
        pages += 1
        (ends,) = struct.unpack_from(">I", frames, start + 4)
        if ends:
            commits.append(pages)
            pages = 0
    return commits


def commit(connection: Connection, kind: Kind[Any, Any], asked: list[Any]) -> None:
    [answer], _ = writer.commit(connection, [(kind.name, kind.crossing(asked))], None, Recorder().add)
    assert answer[0] == "committed"


def test_a_lone_send_writes_twelve_pages(sqlite_url: str, figure: Callable[[str], None]) -> None:
    lot = random.Random(1)
    log = Path(f"{sqlite_file(sqlite_url)}-wal")
    sender = Sender("key:abcdefghij", "backend", "127.0.0.1")
    with lone_writer(sqlite_url) as connection:
        old = [new_message(f"86{lot.randrange(500):013}") for _ in range(5000)]
        commit(connection, ADD, [Addition(message, sender=sender) for message in old])
        commit(connection, MOVE, [Move(message, published(message), now()) for message in old])
        before = len(commits_in(log))
        for _ in range(SENDS):
            message = new_message(f"86{lot.randrange(500):013}", expires_at=now() + 10**6)
            commit(connection, ADD, [Addition(message, sender=sender)])
            commit(connection, MOVE, [Move(message, published(message)._replace(subscribers=True), now())])
        pages = commits_in(log)[before:]
    assert len(pages) == 2 * SENDS
    added, moved = sum(pages[0::2]) / SENDS, sum(pages[1::2]) / SENDS
    written = (added + moved) * _FRAME
    figure(f"a lone send writes {added:.2f} pages before and {moved:.2f} behind the PUBACK: {written / 1000:.1f} kB")
    # Table and three indexes of the message, the trail and the log of changes; table and two indexes, and that log. The
    # rest are pages that were full.
    assert added + moved <= 12.5, (added, moved)


@pytest.mark.parametrize(("at_once", "most"), [(1, 100_000), (LARGEST_BATCH, 4096)])
def test_a_send_with_its_reply_writes_few_bytes(
    sqlite_url: str, figure: Callable[[str], None], at_once: int, most: int
) -> None:
    """Accepted, at the broker, and answered by its device: three commits of so many messages `at_once`."""
    lot = random.Random(1)
    batches = SENDS if at_once == 1 else 20
    log = Path(f"{sqlite_file(sqlite_url)}-wal")
    sender = Sender("key:abcdefghij", "backend", "127.0.0.1")

    def send(messages: list[Message]) -> None:
        at_broker = [
            published(each)._replace(subscribers=True, finished_at=None, reply_by=now() + 30_000) for each in messages
        ]
        commit(connection, ADD, [Addition(message, sender=sender) for message in messages])
        commit(connection, MOVE, [Move(*each, now()) for each in zip(messages, at_broker, strict=True)])
        commit(connection, RECEIVE, [_reply_to(message) for message in messages])

    def new_messages(count: int) -> list[Message]:
        return [new_message(f"86{lot.randrange(500):013}", reply_within=30_000, profile="chapar") for _ in range(count)]

    with lone_writer(sqlite_url) as connection:
        for _ in range(10):
            send(new_messages(500))
        before = sum(commits_in(log))
        for _ in range(batches):
            send(new_messages(at_once))
        sends = batches * at_once
        written = (sum(commits_in(log)) - before) * _FRAME / sends
        answered = connection.exec_driver_sql("SELECT count(*) FROM messages WHERE status = 'succeeded'").scalar_one()
    assert answered == 5000 + sends
    figure(f"a send with its reply writes {written / 1000:.1f} kB where {at_once} share their commits")
    assert written <= most


def _reply_to(message: Message) -> ReceivedReply:
    payload = f'{{"id": "{message.id}", "status": "done", "litres": 12.5}}'
    return read_reply(
        payload.encode(),
        None,
        (),
        device=message.imei,
        topic=f"devices/{message.imei}/reply",
        at=now(),
        is_repeated=False,
    )


@pytest.mark.parametrize("lost", ["connection", "transaction"])
def test_no_number_is_given_twice(sqlite_url: str, lost: str) -> None:
    """Whatever was removed, rolled back or forgotten by a writer that died."""
    seen: list[int] = []
    with lone_writer(sqlite_url) as connection:
        for turn in range(6):
            commit(connection, ADD, [Addition(new_message()) for _ in range(400)])
            seen += connection.exec_driver_sql("SELECT seq FROM messages ORDER BY seq").scalars()
            connection.exec_driver_sql("DELETE FROM messages")
            connection.commit()
            if lost == "connection" and turn % 2:
                connection.invalidate()
                connection.rollback()
            elif lost == "transaction":
                with connection.begin():
                    ADD.run(connection, [Addition(new_message()) for _ in range(700)])
                    connection.rollback()
    assert len(seen) == 2400
    assert seen == sorted(set(seen))
