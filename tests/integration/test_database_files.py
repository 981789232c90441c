"""The files of a SQLite database: one gateway a file, whatever its name, and none whose file is gone."""
# ruff: noqa: ASYNC110, ASYNC240 - nobody else is kept waiting while a test moves a file

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from chapar.errors import DatabaseFileGone, DatabaseInUse, NotSaved, SettingInvalid, StoreUnavailable
from chapar.model.report import Filters
from chapar.store import files
from chapar.store.administration import administer, migrate
from chapar.store.database import Role, open_engine, parse, sqlite_file
from chapar.store.store import Store
from support.stores import add_one, new_message, open_store

PATIENCE = 30.0  # seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "chapar.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{file}") as store:
        await back(store)
        yield store


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def symbolic_link(file: Path) -> str:
    (file.parent.parent / "link.db").symlink_to(file)
    return f"sqlite:///{file.parent.parent}/link.db"


def linked_folder(file: Path) -> str:
    (file.parent.parent / "elsewhere").symlink_to(file.parent)
    return f"sqlite:///{file.parent.parent}/elsewhere/chapar.db"


def hard_link(file: Path) -> str:
    (file.parent.parent / "hard.db").hardlink_to(file)
    return f"sqlite:///{file.parent.parent}/hard.db"


def relative(file: Path) -> str:
    return f"sqlite:///{os.path.relpath(file)}"


def dotted(file: Path) -> str:
    return f"sqlite:///{file.parent}/../data/./chapar.db"


def through_proc(file: Path) -> str:
    return f"sqlite:////proc/self/cwd/{os.path.relpath(file)}"


def without_its_lock_file(file: Path) -> str:
    file.with_name("chapar.db.lock").unlink()
    return f"sqlite:///{file}"


@pytest.mark.parametrize(
    "url", ["sqlite:///what?.db", "sqlite:///a.db?mode=ro", "sqlite:///chapar.db?", "sqlite://host/a.db"]
)
def test_what_is_no_part_of_a_files_name_is_refused(url: str) -> None:
    with pytest.raises(SettingInvalid, match="CHAPAR_DATABASE_URL"):
        parse(url)


def test_a_log_that_a_long_reader_let_grow_is_cut_back(file: Path) -> None:
    url = f"sqlite:///{file}"
    log = files.sibling(file, "wal")
    readers = open_engine(url, Role.READER)
    with open_engine(url, Role.WRITER).connect() as writer:

        def write(size: int) -> None:
            writer.exec_driver_sql("INSERT INTO padding VALUES (zeroblob(?))", (size,))
            writer.commit()

        writer.exec_driver_sql("CREATE TABLE padding (bytes BLOB)")
        write(1)
        with readers.connect() as reader:
            reader.exec_driver_sql("SELECT * FROM padding").all()
            for _ in range(6):
                write(5_000_000)
        readers.dispose()
        assert log.stat().st_size > 30_000_000
        for _ in range(3):
            write(1)
        assert log.stat().st_size <= 16 * 1024 * 1024


NAMES = [symbolic_link, linked_folder, hard_link, relative, dotted, through_proc, without_its_lock_file]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.__name__)
def test_a_file_is_served_once_whatever_its_name(
    file: Path, name: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_PATIENCE", 0.0)
    with files.lock(file):
        other = sqlite_file(name(file))
        with pytest.raises(DatabaseInUse):
            files.lock(other)
    files.lock(other).close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
@pytest.mark.parametrize("call", ["flock", "fcntl"])
def test_a_folder_without_locks_is_one_sentence(
    file: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"chapar.store.files.fcntl.{call}", fail)
    with pytest.raises(SettingInvalid) as refused:
        files.lock(file)
    assert f"cannot be locked ({os.strerror(code).lower()})" in str(refused.value)
    files.check_name(file)


def test_a_file_of_its_own_is_served_beside_another(file: Path) -> None:
    with files.lock(file):
        for path in list(file.parent.iterdir()):
            path.unlink()
        files.lock(file).close()


async def test_a_lock_leaves_sqlite_s_own_alone(store: Store, file: Path) -> None:
    """While it is served, the owner's commands read and write beside the gateway."""
    with administer(f"sqlite:///{file}") as connection:
        connection.execute(text("UPDATE api_keys SET name = name"))
    assert migrate(f"sqlite:///{file}")[0] is not None
    await add_one(store, new_message())


@pytest.mark.parametrize("name", [hard_link], ids=["hard link"])
async def test_nobody_administers_a_served_file_under_a_name_with_another_log(
    store: Store, file: Path, name: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_PATIENCE", 0.0)
    url = name(file)
    for administrate in (lambda: administer(url).__enter__(), lambda: migrate(url)):
        with pytest.raises(DatabaseInUse):
            administrate()
    with administer(symbolic_link(file)) as connection:  # SQLite follows it, so the log is the same
        connection.execute(text("SELECT 1"))
    await store.health.check(30.0)


def test_an_old_database_that_is_served_is_not_migrated(file: Path) -> None:
    with files.lock(file), pytest.raises(DatabaseInUse):
        migrate(f"sqlite:///{file}")


async def test_every_file_is_its_owner_s_whatever_the_umask(file: Path) -> None:
    before = os.umask(0)
    try:
        async with open_store(f"sqlite:///{file}") as store:
            await add_one(store, new_message())
            assert modes(file.parent) == dict.fromkeys(
                ["chapar.db", "chapar.db-shm", "chapar.db-wal", "chapar.db.lock"], 0o600
            )
        file.with_name("chapar.db.lock").chmod(0o666)  # as an earlier version made it
        async with open_store(f"sqlite:///{file}"):
            assert modes(file.parent)["chapar.db.lock"] == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 1), (0o604, 1)])
async def test_a_database_that_others_may_read_is_one_warning(file: Path, mode: int, warnings: int) -> None:
    file.touch()
    file.chmod(mode)
    with capture_logs() as logged:
        async with open_store(f"sqlite:///{file}"):
            pass
    said = [line for line in logged if line["event"] == "database_readable_by_others"]
    assert [line["log_level"] for line in said] == ["warning"] * warnings
    assert all(f"chmod 600 {file}" in line["note"] for line in said)


async def refusal(store: Store) -> str:
    """What a send is told, long before its deadline."""
    with pytest.raises(NotSaved) as told:
        await add_one(store, new_message(), asyncio.get_running_loop().time() + PATIENCE)
    with pytest.raises(StoreUnavailable):
        await store.health.check()
    with pytest.raises(StoreUnavailable):
        await store.reports.page(Filters(), after=None, limit=1)
    assert "جابه‌جا" in told.value.sentence("fa")
    return str(told.value)


async def back(store: Store) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.health.check()
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def test_a_file_that_is_moved_saves_nothing_until_it_is_back(store: Store, file: Path) -> None:
    saved = []
    log, index = (file.with_name(f"chapar.db-{kind}") for kind in ("wal", "shm"))
    for moved, told in ((file, file), (log, log), (index, index), (file.parent, file)):
        saved.append(new_message())
        await add_one(store, saved[-1])
        elsewhere = moved.with_name("elsewhere")
        moved.rename(elsewhere)
        assert f"{told} was deleted, moved, replaced or overwritten" in await refusal(store)
        settled = add_one(store, later := new_message())  # without a deadline it waits
        elsewhere.rename(moved)
        await back(store)
        await settled
        saved.append(later)
    assert [message async for page in store.reports.pages(Filters()) for message in page] == saved


async def test_another_file_in_its_place_is_not_written(store: Store, file: Path) -> None:
    saved = new_message()
    await add_one(store, saved)
    elsewhere = file.with_name("elsewhere")
    file.rename(elsewhere)
    shutil.copy(elsewhere, file)
    copied = file.read_bytes()
    await refusal(store)
    assert file.read_bytes() == copied
    assert file.with_name("chapar.db-wal").stat().st_size == 0, "nor is our log applied to it at the next start"
    file.unlink()
    await refusal(store)
    elsewhere.rename(file)
    await back(store)
    assert await store.messages.find(saved.id) == saved


async def test_a_log_that_is_deleted_takes_nothing_along(file: Path) -> None:
    saved = new_message()
    async with open_store(f"sqlite:///{file}") as store:
        await add_one(store, saved)
        file.with_name("chapar.db-wal").unlink()
        await refusal(store)
    async with open_store(f"sqlite:///{file}") as store:
        assert await store.messages.find(saved.id) == saved


async def test_a_file_that_is_overwritten_is_noticed_also_while_nothing_is_sent(store: Store, file: Path) -> None:
    backup = file.read_bytes()
    file.touch()
    await add_one(store, new_message())
    for _ in range(40):  # enough for the log to be brought into the file
        await asyncio.gather(*(add_one(store, new_message(params="x" * 4000)) for _ in range(40)))
    await store.health.check()
    file.write_bytes(backup)
    async with asyncio.timeout(PATIENCE):
        while store.messages._commits.gone is None:
            await asyncio.sleep(0.02)
    assert str(file) in await refusal(store)


async def test_a_reader_opens_no_other_file(store: Store, file: Path) -> None:
    """Also before the writer has noticed."""
    other = file.with_name("other.db")
    shutil.copy(file, other)
    other.replace(file)
    with pytest.raises(StoreUnavailable, match="was deleted, moved, replaced"):
        await store.reports._reporters.read(lambda connection: connection.execute(text("SELECT 1")).all())


async def test_a_message_that_is_sent_meanwhile_is_not_lost(store: Store, file: Path) -> None:
    """The file goes and comes at any moment, under load: what was saved is there, and what was not is not."""
    loop = asyncio.get_running_loop()
    saved, refused, stop = set(), set(), False

    async def send() -> None:
        while not stop:
            message = new_message()
            try:
                await add_one(store, message, loop.time() + PATIENCE)
                saved.add(message.id)
            except NotSaved:
                refused.add(message.id)
                await asyncio.sleep(0.01)
            except Exception:  # noqa: BLE001, S110 - its outcome is unknown
                pass

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(send())
        elsewhere = file.with_name("elsewhere")
        for _ in range(5):
            enough = len(saved) + 50
            while len(saved) < enough:
                await asyncio.sleep(0.001)
            file.rename(elsewhere)
            enough = len(refused) + 5
            while len(refused) < enough:
                await asyncio.sleep(0.001)
            elsewhere.rename(file)
        stop = True
    await back(store)
    rows = {message.id async for page in store.reports.pages(Filters()) for message in page}
    assert saved <= rows
    assert not refused & rows


@pytest.fixture
async def any_store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as store:
        yield store


async def test_no_lookup_waits_behind_reports(any_store: Store) -> None:
    """However many reports are read, and however long they take."""
    message = new_message()
    await add_one(any_store, message)
    over = threading.Event()
    reports = [
        asyncio.ensure_future(any_store.reports._reporters.read(lambda _: over.wait(PATIENCE))) for _ in range(20)
    ]
    try:
        assert await any_store.messages.find(message.id) == message
        assert not await any_store.api_keys.any()
        assert await any_store.api_keys.find_by_hash("none") is None
        await any_store.health.check(30.0)
        assert not any(report.done() for report in reports)
    finally:
        over.set()
        await asyncio.gather(*reports)
    assert (await any_store.reports.page(Filters(), after=None, limit=1)).messages == [message]


def test_the_lock_is_not_on_a_file_that_was_exchanged_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(_descriptor: int) -> None:
        file.unlink()
        file.touch()

    monkeypatch.setattr(files, "_lock_byte", exchange)
    with pytest.raises(DatabaseFileGone):
        files.lock(file)
