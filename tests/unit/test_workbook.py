"""The spreadsheet of a report, read as a spreadsheet program reads it."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from chapar.web.api import workbook as module
from chapar.web.api.workbook import write

SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
COLUMNS = ("id", "imei", "params")


def written(rows: Sequence[Sequence[object]], folder: Path, columns: Sequence[str] = COLUMNS) -> bytes:
    target = io.BytesIO()
    lines = [json.dumps(line).encode() + b"\n" for line in (("messages", columns), *rows, None)]
    assert write(iter(lines), target, str(parts_in(folder)))
    assert list(folder.iterdir()) == []
    return target.getvalue()


def parts_in(folder: Path) -> Path:
    parts = folder / "parts"
    parts.mkdir()
    return parts


def sheets_of(content: bytes) -> dict[str, list[list[str | None]]]:
    """The cells of each sheet, by its name, as text."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        relations = tree_of(archive.read("xl/_rels/workbook.xml.rels"))
        targets = {relation.get("Id"): relation.get("Target") for relation in relations}
        for listed in tree_of(archive.read("xl/workbook.xml")).iter(f"{SHEET}sheet"):
            [relation] = [value for name, value in listed.attrib.items() if name.endswith("}id")]
            root = tree_of(archive.read(f"xl/{targets[relation]}"))
            assert {cell.get("t") for cell in root.iter(f"{SHEET}c")} <= {"inlineStr", None}
            rows = [cells_of(row) for row in root.iter(f"{SHEET}row")]
            found[str(listed.get("name"))] = rows
        types = archive.read("[Content_Types].xml").decode()
        assert all(
            f'"/{name}"' in types for name in archive.namelist() if name.startswith("xl/") and ".rels" not in name
        )
    return found


def cells_of(row: ET.Element) -> list[str | None]:
    """Those of columns A, B and C, at their places."""
    texts = {str(cell.get("r"))[0]: text_of(cell) for cell in row}
    return [texts.get(column) for column in "ABC"]


def tree_of(content: bytes) -> ET.Element:
    return ET.fromstring(content)  # noqa: S314 - written here


def text_of(cell: ET.Element) -> str | None:
    text = cell.find(f"{SHEET}is/{SHEET}t")
    if text is None:
        return None
    return re.sub("_x([0-9A-F]{4})_", lambda code: chr(int(code[1], 16)), text.text or "")


def test_every_cell_is_text_and_arrives_as_it_was(tmp_path: Path) -> None:
    row = ("0012", "8998211000000000001", '{"valve": "باز", "run": "=1+1 <&> \\u0000"}')
    odd = ("=cmd|' /C calc'!A0", "_x0041_ \x1b[2J\r\n\t  ", None)
    plain = (1, True, "")
    linked = ("http://example.org/", "internal:Sheet1!A1", "{=SUM(A1)}")
    assert sheets_of(written([row, odd, plain, linked], tmp_path)) == {
        "messages": [list(COLUMNS), list(row), list(odd), ["1", "true", ""], list(linked)]
    }


@pytest.mark.parametrize(
    "text",
    [
        "<r><t>bold</t></r>",
        "<r></c></row></r>",
        "<r>\x00_x0041_</r>",
        "_x0041_x0042_",
        "_x005F__x0041_",
        "\ud83d alone",
        "\ufffe\uffff\x0b\x7f\x85",
        "  <t> ]]> &amp; ",
    ],
)
def test_no_text_is_taken_for_more_than_text(tmp_path: Path, text: str) -> None:
    [_, row] = sheets_of(written([[text, text, "y"]], tmp_path))["messages"]
    assert row == [text, text, "y"]


def test_a_report_of_nothing_has_its_headings(tmp_path: Path) -> None:
    assert sheets_of(written([], tmp_path)) == {"messages": [list(COLUMNS)]}


def test_further_rows_stand_on_further_sheets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    rows = [[str(number), "x", "y"] for number in range(7)]
    sheets = sheets_of(written(rows, tmp_path))
    assert list(sheets) == ["messages", "messages 2", "messages 3"]
    assert all(sheet[0] == list(COLUMNS) and len(sheet) <= 4 for sheet in sheets.values())
    assert [row for sheet in sheets.values() for row in sheet[1:]] == rows


def test_no_sheet_grows_past_what_every_reader_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert module.LARGEST_SHEET < zipfile.ZIP64_LIMIT  # the bound that holds without a sheet so large
    monkeypatch.setattr(module, "LARGEST_SHEET", 30_000)
    rows = [[str(number), "x", "y" * 500] for number in range(700)]
    sheets = sheets_of(written(rows, tmp_path))
    assert len(sheets) > 2
    assert all(sheet[0] == list(COLUMNS) for sheet in sheets.values())
    assert [row for sheet in sheets.values() for row in sheet[1:]] == rows


@pytest.mark.parametrize("letter", ["x", "پ", "😀"])
def test_a_cell_that_is_too_long_for_a_spreadsheet_says_that_it_is_cut(tmp_path: Path, letter: str) -> None:
    units = len(letter.encode("utf-16-le")) // 2
    longest = letter * (module.LONGEST_CELL // units)
    [_, [whole, cut, _]] = sheets_of(written([[longest, longest + letter * 2, ""]], tmp_path))["messages"]
    assert whole == longest
    assert cut is not None
    assert cut.endswith("… (cut)")
    assert len(cut.encode("utf-16-le")) // 2 <= module.LONGEST_CELL


HEAD = b'["messages", ["id"]]\n'


@contextmanager
def started(folder: Path, setting: str = "pass", target: str = os.devnull) -> Iterator[subprocess.Popen[bytes]]:
    """The program as it is run, after a `setting`."""
    code = f"import resource, chapar.web.api.workbook as module; {setting}; module.main()"
    with Path(target).open("r+b") as opened:
        yield subprocess.Popen(
            [sys.executable, "-c", code, parts_in(folder)], stdin=subprocess.PIPE, stdout=opened, stderr=subprocess.PIPE
        )


SMALL_FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


@pytest.mark.parametrize(
    ("setting", "target", "rows", "said"),
    [
        ("module.SPARED = 1 << 60", os.devnull, 1, b"No space left on device\n"),
        (SMALL_FILES, os.devnull, 5000, b"File too large\n"),  # while rows are written
        (SMALL_FILES, os.devnull, 1350, b"File too large\n"),  # when their sheet is put together
        ("pass", "/dev/full", 1, b"No space left on device\n"),  # when all is packed
    ],
)
def test_a_disk_without_room_is_one_line_and_nothing_is_left(
    tmp_path: Path, setting: str, target: str, rows: int, said: bytes
) -> None:
    with started(tmp_path, setting, target) as program:
        _, output = program.communicate(HEAD + b'["a text"]\n' * rows + b"null\n")
    assert output == said
    assert program.returncode == os.EX_IOERR
    assert list(tmp_path.iterdir()) == []


def test_where_nobody_waits_any_more_nothing_is_left(tmp_path: Path) -> None:
    with started(tmp_path) as program:
        _, output = program.communicate(HEAD + b'["1"]\n')
    assert (program.returncode, output) == (os.EX_TEMPFAIL, b"")
    assert list(tmp_path.iterdir()) == []
