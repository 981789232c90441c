"""The writer: a process of its own, with the only connection that writes, committing in groups.

`main` serves one socket until the other end closes it. It takes a batch, runs all of it in one transaction, commits,
and answers each operation. The gateway's end is `commits.py`.

    gateway → writer   (url, descriptors, process)    once, at first: it names a secret, so it is no argument; the
                                                      descriptors are those of the lock of a SQLite file, inherited:
                                                      of the lock file and of the database; or None; the process is
                                                      the token of the gateway that other processes may work beside
                       (number, is_repeated,          a batch, only while the writer is ready, with a number of its
                        (kind, [row, …]), …)          own; an empty frame asks whether the writer is alive
    writer → gateway   ("ready",)                     there is a connection
                       ("down", cause)                there is none; the next attempt follows by itself
                       ("gone", file)                 this file of SQLite is not the one that was opened; once it is
                                                      there again, "ready" follows by itself
                       ("alive",)                     the answer to an empty batch
                       ("committed", [[result, …], …])  in the batch's order, as nearly always
                       ("answers", [answer, …], ok)   else; not ok: the connection is given up

    answer = ("committed", [result, …]) | ("apart", [item, …]) | ("not_saved", cause) | ("unknown", cause)
    item   = ("committed", result) | ("not_saved", cause)      the latter is to blame itself: it would fail again
"""

import os
import select
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from chapar.errors import ChaparError, DatabaseFileGone, DatabaseUnsafe, Phrase
from chapar.store.change_log import Recorder, items_of
from chapar.store.database import Role, check_durable, empty_wal, open_engine, sqlite_file
from chapar.store.failures import cause, is_operations_fault, nothing_committed
from chapar.store.files import Watch
from chapar.store.generations import generation_of
from chapar.store.identity import Identity
from chapar.store.kinds import KINDS
from chapar.store.operations import Kind
from chapar.store.wire import LENGTH, body_length, pack, unpack

_KINDS: Mapping[str, Kind[Any, Any]] = {kind.name: kind for kind in KINDS}
_ORDER: Mapping[str, int] = {kind.name: place for place, kind in enumerate(KINDS)}

_RECONNECT_PAUSE = 0.2  # seconds; a database that restarts is back within a few
_CHECK_EVERY = 1.0  # seconds between checks of the files while nothing is to be committed

Batch = Sequence[tuple[str, Sequence[Any]]]
Answer = tuple[object, ...]
Record = Callable[[Connection, Sequence[str]], None]


def serve(channel: socket.socket) -> None:
    """Connect, commit what comes, connect again; returns when the other end is gone."""
    first = _receive(channel)
    if first is None:
        return
    url, descriptors = str(first[0]), first[1]
    recorder = Recorder(None if first[2] is None else str(first[2]))
    file = sqlite_file(url)
    engine = open_engine(url, Role.WRITER, identity=None if descriptors is None else Identity.of(descriptors[1]))
    settled = True
    while True:
        try:
            with _connected(engine, settled=settled) as connection:
                watch = None if file is None or descriptors is None else Watch(file, *descriptors)
                _send(channel, ("ready",))
                settled = _commit_batches(channel, connection, watch, recorder)
        except DatabaseFileGone as error:
            _send(channel, ("gone", error.file))
        except (SQLAlchemyError, ChaparError) as error:
            _send(channel, ("down", cause(error)))
        # No batch is sent to a writer that is not ready, but one may be asked whether it is alive while it commits.
        if _is_readable(channel, _RECONNECT_PAUSE):
            if _receive(channel) is None:
                return
            _send(channel, ("alive",))


@contextmanager
def _connected(engine: Engine, *, settled: bool) -> Iterator[Connection]:
    with engine.connect() as connection:
        with connection.begin():
            check_durable(connection)
        if engine.dialect.name == "sqlite" and not empty_wal(connection) and not settled:
            raise DatabaseUnsafe(Phrase("database.unsafe_log"))
        yield connection


def _commit_batches(channel: socket.socket, connection: Connection, watch: Watch | None, recorder: Recorder) -> bool:
    """Serve until the other end or the connection is gone; False where the last commit's outcome is unknown."""
    gone: str | None = None
    while True:
        if watch is not None and not _is_readable(channel, _CHECK_EVERY):
            gone = _check_file(channel, connection, watch, gone)
            continue
        frame = _receive(channel)
        if frame is None:
            return True
        if not frame:
            _send(channel, ("alive",))
            continue
        number, is_repeated, *batch = frame
        record = partial(recorder.add, batch=number, is_repeated=is_repeated)
        answers, usable = commit(connection, batch, watch, record)
        if usable and all(answer[0] == "committed" for answer in answers):
            _send(channel, ("committed", [answer[1] for answer in answers]))
            continue
        _send(channel, ("answers", answers, usable))
        if not usable:
            connection.invalidate()
            return answers[0][0] != "unknown"
        if watch is not None:
            gone = _check_file(channel, connection, watch, gone)


def _check_file(channel: socket.socket, connection: Connection, watch: Watch, before: str | None) -> str | None:
    """Send what has changed since `before`: which file is gone, or that all are back. Gives which one is gone now."""
    gone = watch.gone()
    if gone == before:
        return gone
    if gone is not None and not watch.overwritten():
        # This connection still has every file. What only the log holds goes into the database now: it is there at the
        # next start, wherever the database was moved, and no other database has this log applied to it.
        empty_wal(connection)
        watch.wrote()
    _send(channel, ("ready",) if gone is None else ("gone", gone))
    return gone


def commit(
    connection: Connection, batch: Batch, watch: Watch | None = None, record: Record | None = None
) -> tuple[list[Answer], bool]:
    """Run `batch` in one transaction. Gives an answer for each operation, and whether the connection is still good.

    `record` adds what it changed to the log of changes, in the same transaction.

    Until COMMIT was asked for, a failure is certain to have left nothing. From then on it is only where the
    database says so; else the outcome is unknown and a failed fsync is never tried again on this connection.
    Nothing is committed into a file that is not at its place.
    """
    try:
        answers = _run(connection, batch)
        if record is not None:
            record(connection, logged(batch, answers))
        generation = 0 if watch is None else generation_of(connection)
    except SQLAlchemyError as error:
        return [("not_saved", cause(error))] * len(batch), _rolled_back(connection)
    if watch is not None and (gone := watch.gone()):
        return [("not_saved", str(DatabaseFileGone(gone)))] * len(batch), _rolled_back(connection)
    try:
        connection.commit()
    except DBAPIError as error:
        if nothing_committed(error) and _rolled_back(connection):
            return [("not_saved", cause(error))] * len(batch), True
        return [("unknown", cause(error))] * len(batch), False
    if watch is not None:
        watch.committed(generation)
    return answers, True


def _run(connection: Connection, batch: Batch) -> list[Answer]:
    """Run everything together; where that fails because of one operation, each by itself, so that it fails alone."""
    try:
        return _run_together(connection, batch)
    except Exception as error:
        if not is_operations_fault(error):
            raise
        connection.rollback()
        return _run_apart(connection, batch)


def _run_together(connection: Connection, batch: Batch) -> list[Answer]:
    connection.begin()  # the hot statements go past SQLAlchemy, which would do so by itself
    answers: list[Answer] = [()] * len(batch)
    for kind, positions in _by_kind(batch):
        rows = [row for position in positions for row in batch[position][1]]
        results = iter(kind.apply(connection, rows))
        for position in positions:
            answers[position] = ("committed", [*islice(results, len(batch[position][1]))])
    return answers


def _run_apart(connection: Connection, batch: Batch) -> list[Answer]:
    answers: list[Answer] = [()] * len(batch)
    for kind, positions in _by_kind(batch):
        for position in positions:
            items = [_run_alone(connection, kind, row) for row in batch[position][1]]
            if all(outcome == "committed" for outcome, _ in items):
                answers[position] = ("committed", [result for _, result in items])
            else:
                answers[position] = ("apart", items)
    return answers


def _run_alone(connection: Connection, kind: Kind[Any, Any], row: object) -> Answer:
    try:
        with connection.begin_nested():
            (result,) = kind.apply(connection, [row])
    except Exception as error:
        if not is_operations_fault(error):
            raise
        return ("not_saved", cause(error))
    return ("committed", result)


def logged(batch: Batch, answers: Sequence[Answer]) -> list[str]:
    """Return what the log of changes is to say of a batch, in its order."""
    items: list[str] = []
    for (name, rows), (outcome, results) in zip(batch, answers, strict=True):
        done, said = rows, cast("Sequence[Any]", results)
        if outcome == "apart":
            done = [row for row, (each, _) in zip(rows, said, strict=True) if each == "committed"]
            said = [result for each, result in said if each == "committed"]
        items += items_of(_KINDS[name], done, said)
    return items


def _by_kind(batch: Batch) -> Iterator[tuple[Kind[Any, Any], list[int]]]:
    """Each kind that the batch has, in the order of application, and where in the batch its operations are."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, (name, _) in enumerate(batch):
        positions[name].append(position)
    return ((_KINDS[name], positions[name]) for name in sorted(positions, key=_ORDER.__getitem__))


def _rolled_back(connection: Connection) -> bool:
    try:
        connection.rollback()
    except SQLAlchemyError:
        return False
    return not connection.invalidated


def _send(channel: socket.socket, frame: tuple[object, ...]) -> None:
    channel.sendall(pack(frame))


def _is_readable(channel: socket.socket, seconds: float) -> bool:
    """Wait for something to read, for so long at most."""
    # Not `select`: it takes no descriptor from 1,024 on, and a gateway with many connections hands such a one over.
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _receive(channel: socket.socket) -> tuple[Any, ...] | None:
    """The next frame; None where the other end is gone."""
    header = channel.recv(LENGTH, socket.MSG_WAITALL)
    if len(header) < LENGTH:
        return None
    length = body_length(header)
    body = channel.recv(length, socket.MSG_WAITALL)
    return unpack(body) if len(body) == length else None


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # The gateway decides when it ends, by closing the socket: a service manager signals every process at once, and
    # what the gateway still has to commit would be lost.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _crashed
    with socket.socket(fileno=int(sys.argv[1])) as channel, suppress(BrokenPipeError, ConnectionResetError):
        serve(channel)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from chapar.runtime import logs  # noqa: PLC0415 - it takes long to load, and a writer starts while callers wait

    logs.configure("warning", "json" if os.environ.get("CHAPAR_LOG_FORMAT", "").lower() == "json" else "console")
    sys.excepthook(kind, error, trace)
