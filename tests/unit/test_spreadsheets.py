"""Making a spreadsheet in a process of its own, and sending it."""

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import pytest

from chapar.errors import SpreadsheetNotMade, StoreUnavailable
from chapar.model.principal import ANYBODY, Caller
from chapar.model.report import Format
from chapar.web.api import spreadsheets as module
from chapar.web.api.spreadsheets import SpreadsheetResponse, Spreadsheets, remove_abandoned_parts
from chapar.web.http import entrance
from chapar.web.http.direct import HEAD_ONLY
from chapar.web.http.exchange import CUT
from support.callers import CALLER
from support.doors import DoorBench

COLUMNS = ("id", "imei")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where it is written; the test's end finds nothing there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


async def pages_of(*rows: Sequence[object]) -> AsyncIterator[Iterable[Sequence[object]]]:
    for row in rows:
        yield [row]


@asynccontextmanager
async def one_being_made(spreadsheets: Spreadsheets) -> AsyncIterator[None]:
    """While the block runs; at its end its caller hangs up."""
    writing = asyncio.Event()

    async def endless() -> AsyncIterator[Iterable[Sequence[object]]]:
        yield [("1", "2")] * 2000
        writing.set()
        await asyncio.Event().wait()

    async def take() -> None:
        async with spreadsheets.made(CALLER, "messages", COLUMNS, endless()):
            pass

    caller = asyncio.create_task(take())
    await writing.wait()
    yield
    caller.cancel()
    await asyncio.wait([caller])


def programs() -> list[str]:
    """The ids and command lines of those that this process has started."""
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], check=False, capture_output=True)
    return [line for line in listed.stdout.decode().splitlines() if "workbook" in line]


def nothing_left(folder: Path) -> bool:
    """Neither a program nor a file, not even one that is open without a name."""
    opened = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    return not programs() and is_empty(folder) and not [file for file in opened if str(folder) in file]


def parts_of(folder: Path) -> list[Path]:
    return list(folder.glob("*.parts/*"))


def wait_for_parts(folder: Path) -> None:
    while not parts_of(folder):
        time.sleep(0.01)


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_the_file_is_whole_and_has_no_name(folder: Path) -> None:
    async with Spreadsheets().made(CALLER, "messages", COLUMNS, pages_of((1, None), ("\ud800", True))) as file:
        assert is_empty(folder)
        assert not nothing_left(folder)
        with zipfile.ZipFile(io.BytesIO(os.pread(file.fileno(), 1 << 20, 0))) as archive:
            assert archive.testzip() is None
            assert archive.read("xl/worksheets/sheet1.xml").count(b"<t>") == 5
    assert nothing_left(folder)


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("no folder", "it cannot be written in /nowhere: No such file or directory."),
        ("no room", ": File too large."),
        ("no program", "the process that writes it failed (No such file or directory)"),
        ("faulty", "the process that writes it failed (exit 1)"),
        ("killed", "the process that writes it failed (exit -9)"),
    ],
)
async def test_what_stops_it_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, folder: Path, setting: str, cause: str
) -> None:
    spreadsheets = Spreadsheets()
    pages = pages_of(*([("x" * 1000, "y")] * 500))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    match setting:
        case "no folder":
            monkeypatch.setenv("TMPDIR", "/nowhere")
        case "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        case "no program":
            monkeypatch.setattr(sys, "executable", "/nowhere/python")
        case "faulty":
            monkeypatch.setattr(sys, "executable", "/bin/false")
        case _:
            (folder / "kill").write_text("#!/bin/sh\nkill -9 $$\n")
            (folder / "kill").chmod(0o700)
            monkeypatch.setattr(sys, "executable", str(folder / "kill"))
    try:
        with pytest.raises(SpreadsheetNotMade) as failure:
            async with spreadsheets.made(CALLER, "messages", COLUMNS, pages):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert cause in failure.value.sentence()
    assert failure.value.sentence("fa") != failure.value.sentence()
    (folder / "kill").unlink(missing_ok=True)
    assert nothing_left(folder)


async def test_where_the_report_cannot_be_read_nothing_is_left(folder: Path) -> None:
    async def broken() -> AsyncIterator[Iterable[Sequence[object]]]:
        yield [("1", "2")]
        raise StoreUnavailable("The disk is gone.")

    with pytest.raises(StoreUnavailable):
        async with Spreadsheets().made(CALLER, "messages", COLUMNS, broken()):
            pass
    assert nothing_left(folder)


async def test_whoever_hangs_up_leaves_nothing_behind_and_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(module, "MOST_MADE", 1)
    spreadsheets = Spreadsheets()
    async with one_being_made(spreadsheets):
        with pytest.raises(SpreadsheetNotMade, match="1 are being made, and there may be no more"):
            async with spreadsheets.made(CALLER, "messages", COLUMNS, pages_of()):
                pass
    assert nothing_left(folder)
    async with spreadsheets.made(CALLER, "messages", COLUMNS, pages_of()):
        pass


@pytest.mark.parametrize(
    ("setting", "most", "caller", "problem"),
    [
        ("MOST_OPEN", 5, "10.0.0.2", "5 are being made or sent, and there may be no more"),
        ("MOST_OPEN_FOR_ONE", 5, CALLER.address, "5 of yours are being made or sent"),
    ],
)
async def test_slow_downloads_keep_nobody_from_having_one_made(
    monkeypatch: pytest.MonkeyPatch, folder: Path, setting: str, most: int, caller: str, problem: str
) -> None:
    monkeypatch.setattr(module, setting, most)
    spreadsheets = Spreadsheets()
    async with AsyncExitStack() as downloads:
        for _ in range(module.MOST_MADE + 1):
            await downloads.enter_async_context(spreadsheets.made(CALLER, "messages", COLUMNS, pages_of()))
        with pytest.raises(SpreadsheetNotMade, match=problem):
            async with spreadsheets.made(Caller(ANYBODY, caller), "messages", COLUMNS, pages_of()):
                pass
    async with spreadsheets.made(CALLER, "messages", COLUMNS, pages_of()):
        pass
    assert nothing_left(folder)


async def test_one_caller_leaves_places_to_others(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(module, "MOST_MADE_FOR_ONE", 1)
    spreadsheets = Spreadsheets()
    async with one_being_made(spreadsheets):
        with pytest.raises(SpreadsheetNotMade, match="1 of yours are being made, and one caller may have no more"):
            async with spreadsheets.made(CALLER, "messages", COLUMNS, pages_of()):
                pass
        async with spreadsheets.made(Caller(ANYBODY, "10.0.0.2"), "messages", COLUMNS, pages_of()):
            pass
    assert nothing_left(folder)


async def test_where_the_writing_process_is_killed_its_parts_are_removed(folder: Path) -> None:
    async def killed() -> AsyncIterator[Iterable[Sequence[object]]]:
        yield [("1", "2")] * 2000
        await asyncio.to_thread(wait_for_parts, folder)
        remove_abandoned_parts()  # as a gateway that starts beside this one
        assert parts_of(folder)
        [program] = programs()
        os.kill(int(program.split()[0]), signal.SIGKILL)
        yield [("1", "2")]

    with pytest.raises(SpreadsheetNotMade, match="exit -9"):
        async with Spreadsheets().made(CALLER, "messages", COLUMNS, killed()):
            pass
    assert nothing_left(folder)


def test_what_a_killed_gateway_left_is_removed_by_the_next(folder: Path) -> None:
    names = ("chapar-spreadsheet-1.parts", "chapar-spreadsheet-2.parts", "chapar-spreadsheet-3", "others.parts")
    for name in names:
        (folder / name).mkdir()
        (folder / name / "part").touch()
    (folder / "chapar-spreadsheet-4.parts").symlink_to(folder / names[3])
    lock = os.open(folder / names[1], os.O_RDONLY)
    flock(lock, LOCK_EX)
    remove_abandoned_parts()
    os.close(lock)
    assert {file.name for file in folder.iterdir()} == {*names[1:], "chapar-spreadsheet-4.parts"}
    assert len(list(folder.glob("*/part"))) == 4


async def test_without_a_folder_for_it_the_working_folder_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(module, "_FOLDERS", ("/nowhere", "/nor/here"))
    with pytest.raises(SpreadsheetNotMade, match="it cannot be written in /nowhere: No such file or directory"):
        async with Spreadsheets().made(CALLER, "messages", COLUMNS, pages_of()):
            pass


async def answered(spreadsheets: Spreadsheets, pages: Any, bench: DoorBench | None = None, **scope: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    bench = bench or DoorBench()
    scope |= {"type": "http", "method": "GET", "admission": (bench.door, None), "caller": CALLER}
    await SpreadsheetResponse(spreadsheets.made(CALLER, "messages", COLUMNS, pages), {"X-Name": "a"})(
        scope, receive, send
    )
    return sent


async def test_it_is_sent_with_its_length(folder: Path) -> None:
    head, *body = await answered(Spreadsheets(), pages_of(("1", os.urandom(50_000).hex()[:30_000])))
    content = b"".join(message["body"] for message in body)
    headers = dict(head["headers"])
    assert headers[b"content-length"] == str(len(content)).encode()
    assert headers[b"content-type"] == Format.XLSX.media_type.encode()
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    assert nothing_left(folder)


async def test_for_its_head_alone_none_is_made() -> None:
    head, *body = await answered(Spreadsheets(), None, **{HEAD_ONLY: True})
    assert (head["status"], dict(head["headers"])[b"content-type"]) == (200, Format.XLSX.media_type.encode())
    assert [message.get("body") for message in body] == [b""]


async def test_what_goes_wrong_is_known_before_the_answer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MADE", 0)
    with pytest.raises(SpreadsheetNotMade):
        await answered(Spreadsheets(), pages_of())


async def test_whoever_counts_no_more_before_it_is_whole_gets_none(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(entrance, "READMIT_EVERY", 0)
    bench = DoorBench()
    await bench.door.refresh()

    async def pages() -> AsyncIterator[Iterable[Sequence[object]]]:
        yield [("1", "2")]
        bench.new_key()  # from here on, one is asked for
        await bench.door.refresh()
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        assert await answered(Spreadsheets(), pages(), bench) == [{"type": CUT}]
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert nothing_left(folder)
