"""Making a spreadsheet in a process of its own, and sending it."""

import asyncio
import io
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chapar.errors import SpreadsheetNotMade, StoreUnavailable
from chapar.model.report import Format
from chapar.web.api import spreadsheets as module
from chapar.web.api.spreadsheets import SpreadsheetResponse, Spreadsheets
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


async def endless(writing: asyncio.Event) -> AsyncIterator[Iterable[Sequence[object]]]:
    yield [("1", "2")] * 2000
    writing.set()
    await asyncio.Event().wait()


def programs() -> list[str]:
    """The command lines of those that this process has started."""
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], check=False, capture_output=True)
    return [line for line in listed.stdout.decode().splitlines() if "workbook" in line]


def nothing_left(folder: Path) -> bool:
    """Neither a program nor a file, not even one that is open without a name."""
    opened = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    return not programs() and is_empty(folder) and not [file for file in opened if str(folder) in file]


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_the_file_is_whole_and_has_no_name(folder: Path) -> None:
    async with Spreadsheets().made("messages", COLUMNS, pages_of((1, None), ("\ud800", True))) as file:
        assert is_empty(folder)
        assert not nothing_left(folder)
        with zipfile.ZipFile(io.BytesIO(os.pread(file.fileno(), 1 << 20, 0))) as archive:
            assert archive.testzip() is None
            assert archive.read("xl/worksheets/sheet1.xml").count(b"<t>") == 5
    assert nothing_left(folder)


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("no folder", "/nowhere, where it is written, says: No such file or directory."),
        ("no room", ", where it is written, says: File too large."),
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
            async with spreadsheets.made("messages", COLUMNS, pages):
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
        async with Spreadsheets().made("messages", COLUMNS, broken()):
            pass
    assert nothing_left(folder)


async def test_whoever_hangs_up_leaves_nothing_behind_and_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    spreadsheets = Spreadsheets()
    writing = asyncio.Event()

    async def take() -> None:
        async with spreadsheets.made("messages", COLUMNS, endless(writing)):
            pass

    caller = asyncio.create_task(take())
    await writing.wait()
    with pytest.raises(SpreadsheetNotMade, match="1 is being made or sent"):
        await take()
    caller.cancel()
    await asyncio.wait([caller])
    assert nothing_left(folder)
    async with spreadsheets.made("messages", COLUMNS, pages_of()):
        pass


async def answered(spreadsheets: Spreadsheets, pages: Any, bench: DoorBench | None = None, **scope: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    bench = bench or DoorBench()
    scope |= {"type": "http", "method": "GET", "admission": (bench.door, None), "caller": CALLER}
    await SpreadsheetResponse(spreadsheets.made("messages", COLUMNS, pages), {"X-Name": "a"})(scope, receive, send)
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
    monkeypatch.setattr(module, "MOST", 0)
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
