"""Backups and older copies of a database: what they have unsent does not leave by itself."""

import asyncio
import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from chapar.errors import (
    BackupFailed,
    DatabaseInUse,
    RestoreFailed,
    SchemaNewer,
    SettingInvalid,
    StoreUnavailable,
)
from chapar.model.acceptance import Addition
from chapar.model.audit import Action, AuditFilters, Entry, cancellation
from chapar.model.message import Message, Status, clearing
from chapar.model.principal import Caller
from chapar.model.queue import Lease, Unsent
from chapar.store import administration, files, migrations
from chapar.store.acceptance import ADD
from chapar.store.administration import administer
from chapar.store.audit import local_user, newest_first
from chapar.store.copies import back_up, restoration
from chapar.store.database import Role, open_engine
from chapar.store.messages import find
from chapar.store.migrations import migrate
from chapar.store.moves import CANCEL
from chapar.store.queue import ACQUIRE_LEASE, SETTLE, TAKE, Settle, Take, backlog
from chapar.store.store import Store
from support.rights import forbidden
from support.stores import PROCESS, add_one, new_message, now, open_store

ALL = 1000
NEXT = "fedcba9876543210"  # token of a process that starts
OWNER = Caller(local_user(), "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chapar.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "copy.db"


def waiting(imei: str = "861230000000001", **fields: Any) -> Message:
    return new_message(imei, **({"status": Status.QUEUED, "attempts": 0, "claim": None} | fields))


async def take(store: Store) -> list[Message]:
    found = await store.queue.take(f"{PROCESS}.{time.time_ns()}", ALL, now())
    return found.messages


def saved(url: str, *messages: Message, taken: bool = False) -> None:
    """Have messages in a database that is made for it, with no gateway; perhaps on their way already."""
    with administer(url) as connection:
        ADD.run(connection, [Addition(message) for message in messages])
        if taken:
            assert len(take_in(connection, PROCESS)) == len(messages)


def take_in(connection: Connection, process: str) -> list[Message]:
    [taken] = TAKE.run(connection, [Take(f"{process}.{time.time_ns()}", ALL, now())])
    return taken.messages


def start_and_take(file: Path) -> list[str]:
    """What leaves when a gateway is started on this file, and killed."""
    url = f"sqlite:///{file}"
    with files.lock(file) as lock:
        migrate(url)
        administration.begin(url, lock)
        with open_engine(url, Role.ADMINISTRATOR).begin() as connection:
            ACQUIRE_LEASE.run(connection, [Lease(NEXT, "test", 15.0, alone=True)])
            SETTLE.run(connection, [Settle(NEXT, now())])
            return [message.id for message in take_in(connection, NEXT)]


def message_in(url: str, message: Message) -> Message:
    with administer(url) as connection:
        found = find(connection, message.id)
    assert found is not None
    return found


def standing(url: str, message: Message) -> tuple[Status, str | None]:
    found = message_in(url, message)
    return found.status, found.reason


def trail(url: str) -> list[Entry]:
    with administer(url) as connection:
        page = newest_first(connection, AuditFilters(), None, ALL)
    return [entry for _, entry in reversed(page.entries)]


def actions(url: str) -> list[str]:
    return [entry.action for entry in trail(url)]


def last_entry(url: str) -> tuple[str, str | None]:
    entry = trail(url)[-1]
    return entry.action, entry.detail


def execute(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def backed_up(file: Path, copy: Path) -> None:
    back_up(f"sqlite:///{file}", copy, replace=False)


def copied_with_its_log(file: Path, copy: Path) -> None:
    shutil.copy(file, copy)
    shutil.copy(files.sibling(file, "wal"), files.sibling(copy, "wal"))


def put_back(file: Path, copy: Path) -> None:
    """What somebody does who knows nothing of `chapar restore`."""
    for old in (file, *(files.sibling(file, kind) for kind in ("wal", "shm"))):
        old.unlink(missing_ok=True)
    shutil.copy(copy, file)
    if (log := files.sibling(copy, "wal")).exists():
        shutil.copy(log, files.sibling(file, "wal"))


def restore(url: str, copy: Path, unsent: Unsent = Unsent.HOLD) -> Path | None:
    with restoration(url, copy) as restored:
        return restored.put_in_place(unsent, OWNER)


async def goes_on_beside_a_backup(url: str, copy: Path) -> None:
    async with open_store(url) as store:
        await add_one(store, waiting())
        assert back_up(url, copy, replace=False) == 1
        await add_one(store, waiting())
        assert len(await take(store)) == 2


def test_a_backup_beside_a_running_gateway_is_whole_and_its_owners_alone(url: str, copy: Path) -> None:
    asyncio.run(goes_on_beside_a_backup(url, copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert names_in(copy.parent) == {"copy.db"}
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    connection.close()


async def leaves(store: Store, message: Message) -> None:
    assert [taken.id for taken in await take(store)] == [message.id]


async def is_cancelled(store: Store, message: Message) -> None:
    entry = cancellation(OWNER, message, now())
    await store.messages.cancel([entry], asyncio.get_running_loop().time() + 60)


async def goes_on(store: Store, _: Message) -> None:
    await store.queue.release_lease(PROCESS)  # the gateway is stopped


COPIED = [copied_with_its_log, backed_up]
MEANWHILE: list[Callable[[Store, Message], Awaitable[None]]] = [leaves, is_cancelled, goes_on]


@pytest.mark.parametrize("meanwhile", MEANWHILE, ids=lambda meanwhile: meanwhile.__name__)
async def test_what_an_older_copy_has_unsent_does_not_leave(
    url: str, file: Path, copy: Path, meanwhile: Callable[[Store, Message], Awaitable[None]]
) -> None:
    message = waiting()
    made = {way: copy.with_name(f"{way.__name__}.db") for way in COPIED}
    async with open_store(url) as store:
        await add_one(store, message)
        for way, where in made.items():
            way(file, where)
        await meanwhile(store, message)
    for where in made.values():
        put_back(file, where)
        assert start_and_take(file) == []
        held = message_in(url, message)
        assert (held.status, held.reason, held.possible_duplicate) == (Status.QUEUED, "held", True)
        assert start_and_take(file) == [], "nor at the next start"
        assert actions(url).count(Action.HELD) == 1
    new = waiting()
    saved(url, new)
    assert start_and_take(file) == [new.id], "what is new passes what is held"
    with administer(url) as connection:
        assert backlog(connection).held == 1


def is_cancelled_by_the_owner(url: str, message: Message) -> None:
    with administer(url) as connection:
        [cancelled] = CANCEL.run(connection, [cancellation(OWNER, message, now())])
    assert cancelled is not None
    assert cancelled.won


def test_nor_does_what_the_owner_cancelled(url: str, file: Path, copy: Path) -> None:
    message = waiting()
    saved(url, message)
    shutil.copy(file, copy)
    is_cancelled_by_the_owner(url, message)
    put_back(file, copy)
    assert start_and_take(file) == []
    assert standing(url, message) == (Status.QUEUED, "held")


async def test_nor_does_what_the_owner_cancelled_beside_a_gateway(url: str, file: Path, copy: Path) -> None:
    message = waiting()
    async with open_store(url) as store:
        await add_one(store, message)
        copied_with_its_log(file, copy)
        is_cancelled_by_the_owner(url, message)
    put_back(file, copy)
    assert start_and_take(file) == []
    assert standing(url, message) == (Status.QUEUED, "held")


def test_what_a_killed_gateway_leaves_is_no_copy(url: str, file: Path) -> None:
    messages = waiting(), waiting("861230000000002")
    saved(url, *messages)
    assert len(start_and_take(file)) == 2
    put_back(file, file.rename(file.with_name("moved.db")))
    execute(file, "UPDATE messages SET status = 'queued'")
    assert len(start_and_take(file)) == 2


def test_a_backup_is_recognised_in_another_place_and_by_commands_too(url: str, file: Path, copy: Path) -> None:
    message = waiting()
    saved(url, message)
    backed_up(file, copy)
    assert standing(f"sqlite:///{copy}", message) == (Status.QUEUED, "held")
    assert start_and_take(copy) == []
    assert administration.release_queue(f"sqlite:///{copy}") == (1, 0)
    assert start_and_take(copy) == [message.id]
    assert start_and_take(file) == [message.id], "what it was made of is no backup"


def test_what_was_on_its_way_when_a_copy_was_made_is_held_too(url: str, file: Path, copy: Path) -> None:
    once, often = waiting(at_most_once=True), waiting("861230000000002")
    saved(url, once, often, taken=True)
    backed_up(file, copy)
    assert start_and_take(copy) == []
    assert standing(f"sqlite:///{copy}", often) == (Status.QUEUED, "held")
    assert standing(f"sqlite:///{copy}", once) == (Status.UNCONFIRMED, "process_died")


def test_what_is_held_still_expires_and_becomes_due(url: str, file: Path, copy: Path) -> None:
    late = waiting(expires_at=now())
    due = waiting(status=Status.SCHEDULED, deliver_at=now())
    saved(url, late, due)
    backed_up(file, copy)
    assert start_and_take(copy) == []
    assert standing(f"sqlite:///{copy}", late) == (Status.EXPIRED, "expired")
    assert standing(f"sqlite:///{copy}", due) == (Status.QUEUED, "held")


@pytest_asyncio.fixture(loop_scope="module")
async def held(shared_store: Store, shared_url: str) -> list[Message]:
    """Messages that are held: two for one device, one to be sent at most once, and one for later.

    So is what would clear a retained message, which nobody sent.
    """
    messages = [
        waiting(),
        waiting(),
        waiting("861230000000002", at_most_once=True),
        waiting("861230000000003", status=Status.SCHEDULED, deliver_at=now() + 3_600_000),
    ]
    clears = clearing(waiting(retain=True), time.time_ns(), due=now() + 3_600_000)
    for message in (*messages, clears):
        await add_one(shared_store, message)
    assert administration.hold_queue(shared_url) == 4
    assert last_entry(shared_url) == (Action.HELD, "4 messages")
    return messages


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("at_once", [1, 5000])
async def test_what_is_released_leaves_in_its_order_as_a_possible_duplicate(
    shared_store: Store, shared_url: str, held: list[Message], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("chapar.store.hold._RELEASED_AT_ONCE", at_once)
    first, second, once, later = held
    assert await take(shared_store) == []
    assert administration.release_queue(shared_url) == (3, 1)
    taken = await take(shared_store)
    assert [message.id for message in taken] == [first.id, second.id]
    assert {(message.possible_duplicate, message.reason) for message in taken} == {(True, None)}
    assert standing(shared_url, once) == (Status.UNCONFIRMED, "held")
    assert message_in(shared_url, once).finished_at is not None
    assert standing(shared_url, later) == (Status.SCHEDULED, None)
    assert message_in(shared_url, later).deliver_at == later.deliver_at
    assert (await shared_store.queue.backlog()).held == 0
    assert last_entry(shared_url) == (Action.RELEASED, "3 messages; 1 unconfirmed")
    assert administration.release_queue(shared_url) == (0, 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_cancelled_never_leaves(shared_store: Store, shared_url: str, held: list[Message]) -> None:
    new = waiting()
    saved(shared_url, new)
    assert administration.cancel_queue(shared_url) == 4
    assert [message.id for message in await take(shared_store)] == [new.id]
    assert {standing(shared_url, message)[0] for message in held} == {Status.CANCELLED}
    assert actions(shared_url)[-6:] == [Action.HELD, *[Action.CANCELLED] * 5]
    assert administration.hold_queue(shared_url) == 1, "what may be on its way is put back, and held"


@pytest.mark.parametrize(
    ("unsent", "stands"),
    [
        (Unsent.KEEP, (Status.PUBLISHING, None)),
        (Unsent.HOLD, (Status.QUEUED, "held")),
        (Unsent.CANCEL, (Status.CANCELLED, "cancelled")),
    ],
)
def test_what_is_unsent_in_a_restored_backup_is_treated_as_asked(
    url: str, file: Path, copy: Path, unsent: Unsent, stands: tuple[Status, str | None]
) -> None:
    message, on_its_way, lost = waiting(), waiting("861230000000002"), waiting()
    saved(url, on_its_way, taken=True)
    saved(url, message)
    backed_up(file, copy)
    saved(url, lost)
    before = file.read_bytes()
    kept = restore(url, copy, unsent)
    assert kept is not None
    assert kept.read_bytes() == before, "what was there is kept whole"
    assert file.stat().st_mode & 0o777 == 0o600
    assert names_in(file.parent) == {"chapar.db", "chapar.db.lock", kept.name, "elsewhere"}
    assert {*start_and_take(file)} == ({message.id, on_its_way.id} if unsent is Unsent.KEEP else set())
    assert standing(url, message) == standing(url, on_its_way) == stands
    with administer(url) as connection:
        assert find(connection, lost.id) is None
    assert Action.RESTORED in actions(url)


def test_nothing_is_restored_under_a_running_gateway(url: str, file: Path, copy: Path) -> None:
    saved(url, waiting())
    backed_up(file, copy)
    with files.lock(file), pytest.raises(DatabaseInUse):
        restore(url, copy)
    with files.lock(copy), pytest.raises(RestoreFailed, match="a gateway serves"):
        restore(url, copy)


async def test_a_plain_copy_with_its_log_is_restored_from_where_nothing_can_be_written(
    url: str, file: Path, copy: Path
) -> None:
    message = waiting()
    async with open_store(url) as store:
        await add_one(store, message)
        copied_with_its_log(file, copy)
    was = {path.name: path.read_bytes() for path in copy.parent.iterdir()}
    restore(url, copy)
    assert {path.name: path.read_bytes() for path in copy.parent.iterdir()} == was
    assert start_and_take(file) == []
    assert standing(url, message) == (Status.QUEUED, "held")


def test_a_database_of_an_earlier_version_is_backed_up_and_restored(url: str, file: Path, copy: Path) -> None:
    message = waiting()
    saved(url, message)
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with open_engine(url, Role.MIGRATOR).connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
    backed_up(file, copy)
    assert start_and_take(copy) == []
    restore(url, copy)
    assert start_and_take(file) == []


def test_a_backup_replaces_nothing_unless_it_is_asked_to(url: str, file: Path, copy: Path) -> None:
    migrate(url)
    copy.write_text("precious")
    copy.chmod(0o644)
    with pytest.raises(BackupFailed, match="exists already"):
        back_up(url, copy, replace=False)
    assert copy.read_text() == "precious"
    back_up(url, copy, replace=True)
    assert copy.stat().st_mode & 0o777 == 0o600
    link = copy.with_name("link.db")
    link.symlink_to(file)
    file.with_name("chapar.db.lock").touch()
    for part in (file, file.with_name("chapar.db.lock"), file.parent, link):
        with pytest.raises(BackupFailed, match="a file of the database itself"):
            back_up(url, part, replace=True)
    with pytest.raises(BackupFailed, match="No such file"):
        back_up(url, copy.parent / "nowhere" / "copy.db", replace=False)
    assert names_in(copy.parent) == {"copy.db", "link.db"}


def test_a_file_system_without_links_will_do(url: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(url, waiting())

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert back_up(url, copy, replace=False) == 1
    kept = restore(url, copy)
    assert kept is not None
    assert kept.stat().st_mode & 0o777 == 0o600
    assert names_in(copy.parent) == {"copy.db"}


def test_a_full_disk_without_links_leaves_no_half_of_a_backup(
    url: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(url, waiting())

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def fill(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(BackupFailed, match="No space left"):
        back_up(url, copy, replace=False)
    assert names_in(copy.parent) == set()


def test_a_folder_that_may_not_be_entered_is_one_sentence(url: str, file: Path, copy: Path) -> None:
    saved(url, waiting())
    with forbidden(copy.parent):
        with pytest.raises(BackupFailed, match="Permission denied"):
            back_up(url, copy, replace=False)
        with pytest.raises(RestoreFailed, match="Permission denied"):
            restore(url, copy)
    backed_up(file, copy)
    with forbidden(file.parent):
        with pytest.raises(BackupFailed, match="Permission denied"):
            back_up(url, copy, replace=True)
        with pytest.raises((StoreUnavailable, SettingInvalid)), administer(url):
            pass


def test_links_that_go_round_in_a_circle_are_one_sentence(url: str, file: Path, copy: Path) -> None:
    saved(f"sqlite:///{copy}", waiting())
    file.symlink_to(other := file.with_name("other.db"))
    other.symlink_to(file)
    with pytest.raises(BackupFailed, match="no database at"):
        back_up(url, copy, replace=True)
    with pytest.raises(SettingInvalid, match="too many levels"):
        restore(url, copy)
    with pytest.raises(StoreUnavailable), administer(url):
        pass


def test_there_is_nothing_to_back_up(url: str, file: Path, copy: Path) -> None:
    with pytest.raises(BackupFailed, match="no database at"):
        back_up(url, copy, replace=False)
    assert not file.exists()
    with pytest.raises(BackupFailed, match="pg_dump"):
        back_up("postgresql://nowhere/chapar", copy, replace=False)
    with pytest.raises(RestoreFailed, match="pg_restore"):
        restore("postgresql://nowhere/chapar", copy)


def test_a_name_that_is_no_utf_8_is_one_of_a_file_too(url: str, copy: Path) -> None:
    saved(url, waiting())
    strange = copy.with_name("copy-\udcff.db")
    assert back_up(url, strange, replace=False) == 1
    restore(f"sqlite:///{copy.with_name('restored.db')}", strange)
    assert names_in(copy.parent) >= {strange.name, "restored.db"}


def test_nothing_is_found_from_a_folder_that_was_deleted(
    url: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(url, waiting())
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    back_up(url, copy, replace=False)
    with pytest.raises(BackupFailed, match="No such file"):
        back_up(url, Path("copy"), replace=False)
    with pytest.raises(SettingInvalid, match="cannot hold the database: no such file"):
        back_up("sqlite:///chapar.db", copy, replace=False)


def damaged(file: Path, copy: Path) -> None:
    backed_up(file, copy)
    with copy.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(8192))


def of_a_newer_version(file: Path, copy: Path) -> None:
    backed_up(file, copy)
    execute(copy, "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda _, __: None, RestoreFailed, "is no file"),
        (lambda _, copy: copy.write_bytes(b"no database at all" * 1000), RestoreFailed, "not a whole database"),
        (lambda _, copy: execute(copy, "CREATE TABLE somebodys (a)"), RestoreFailed, "not a whole database"),
        (damaged, RestoreFailed, "not a whole database"),
        (lambda file, copy: copy.symlink_to(file), RestoreFailed, "of the database itself"),
        (of_a_newer_version, SchemaNewer, "9999"),
    ],
)
def test_what_is_no_backup_is_not_restored(
    url: str,
    file: Path,
    copy: Path,
    make: Callable[[Path, Path], None],
    error: type[Exception],
    said: str,
) -> None:
    saved(url, waiting())
    before = file.read_bytes()
    make(file, copy)
    with pytest.raises(error, match=said):
        restore(url, copy)
    assert file.read_bytes() == before
    assert names_in(file.parent) <= {"chapar.db", "chapar.db.lock", "elsewhere"}


def test_a_restore_that_fails_leaves_nothing(tmp_path: Path, copy: Path) -> None:
    copy.write_bytes(b"no database at all" * 1000)
    with pytest.raises(RestoreFailed, match="not a whole database"):
        restore(f"sqlite:///{tmp_path}/chapar.db", copy)
    with pytest.raises(RestoreFailed, match="No such file or directory"):
        restore(f"sqlite:///{tmp_path}/nowhere/chapar.db", copy)
    assert names_in(tmp_path) == {"elsewhere"}


def test_a_damaged_database_is_kept_with_its_log(url: str, file: Path, copy: Path) -> None:
    saved(url, waiting())
    backed_up(file, copy)
    file.write_bytes(b"damaged" * 1000)
    files.sibling(file, "wal").write_bytes(b"its log")
    kept = restore(url, copy)
    assert kept is not None
    assert kept.read_bytes() == b"damaged" * 1000
    assert files.sibling(kept, "wal").read_bytes() == b"its log"
    assert start_and_take(file) == []


def test_a_database_that_cannot_be_kept_stays_with_its_log(
    url: str, file: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(url, waiting())
    backed_up(file, copy)
    file.write_bytes(b"damaged" * 1000)
    files.sibling(file, "wal").write_bytes(b"its log")

    def refuse(_: Path, target: Path) -> None:
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(RestoreFailed, match="exists already"):
        restore(url, copy)
    assert file.read_bytes() == b"damaged" * 1000
    assert files.sibling(file, "wal").read_bytes() == b"its log"


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")], ids=["fsync", "rename"])
def test_a_database_whose_place_cannot_be_taken_stays_with_its_log(
    url: str, file: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    saved(url, waiting())
    backed_up(file, copy)
    file.write_bytes(b"damaged" * 1000)
    files.sibling(file, "wal").write_bytes(b"its log")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, refuse)
        with pytest.raises(RestoreFailed, match="Input/output error"):
            restore(url, copy)
    assert file.read_bytes() == b"damaged" * 1000
    assert files.sibling(file, "wal").read_bytes() == b"its log"
    assert names_in(file.parent) == {"chapar.db", "chapar.db-wal", "chapar.db.lock", "elsewhere"}
    assert restore(url, copy) is not None
    assert start_and_take(file) == []


def test_the_log_of_a_copy_is_its_owner_s_alone(
    url: str, file: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(url, waiting())
    modes: list[int] = []
    copyfile = shutil.copyfile

    def watched(source: Path, target: Path) -> None:
        copyfile(source, target)
        modes.append(target.stat().st_mode & 0o777)

    backed_up(file, copy)
    files.sibling(copy, "wal").touch()
    monkeypatch.setattr(shutil, "copyfile", watched)
    restore(url, copy)
    assert modes == [0o600, 0o600]


def test_a_backup_is_restored_where_there_is_no_database(url: str, file: Path, copy: Path) -> None:
    message = waiting()
    saved(url, message)
    backed_up(file, copy)
    for part in file.parent.glob("chapar.db*"):
        part.unlink()
    assert restore(url, copy) is None
    assert names_in(file.parent) == {"chapar.db", "chapar.db.lock", "elsewhere"}
    assert start_and_take(file) == []
    assert standing(url, message) == (Status.QUEUED, "held")
