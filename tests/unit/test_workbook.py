"""The spreadsheet of a report, read as a spreadsheet program reads it."""

import io
import re
import zipfile
from collections.abc import AsyncIterator, Iterable, Sequence
from xml.etree import ElementTree as ET

import pytest

from chapar.web.api import workbook as module
from chapar.web.api.workbook import workbook

SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
COLUMNS = ("id", "imei", "params")


async def pages_of(rows: Sequence[Sequence[object]], size: int = 2) -> AsyncIterator[Iterable[Sequence[object]]]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


async def written(rows: Sequence[Sequence[object]]) -> bytes:
    return b"".join([piece async for piece in workbook("messages", COLUMNS, pages_of(rows))])


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
            rows = [[text_of(cell) for cell in row] for row in root.iter(f"{SHEET}row")]
            found[str(listed.get("name"))] = rows
        types = archive.read("[Content_Types].xml").decode()
        assert all(
            f'"/{name}"' in types for name in archive.namelist() if name.startswith("xl/") and ".rels" not in name
        )
    return found


def tree_of(content: bytes) -> ET.Element:
    return ET.fromstring(content)  # noqa: S314 - written here


def text_of(cell: ET.Element) -> str | None:
    text = cell.find(f"{SHEET}is/{SHEET}t")
    if text is None:
        return None
    return re.sub("_x([0-9A-F]{4})_", lambda code: chr(int(code[1], 16)), text.text or "")


async def test_every_cell_is_text_and_arrives_as_it_was() -> None:
    row = ("0012", "8998211000000000001", '{"valve": "باز", "run": "=1+1 <&> \\u0000"}')
    odd = ("=cmd|' /C calc'!A0", "_x0041_ \x1b[2J\r\n\t  ", None)
    plain = (1, True, "")
    assert sheets_of(await written([row, odd, plain])) == {
        "messages": [list(COLUMNS), list(row), list(odd), ["1", "true", ""]]
    }


async def test_a_report_of_nothing_has_its_headings() -> None:
    assert sheets_of(await written([])) == {"messages": [list(COLUMNS)]}


async def test_further_rows_stand_on_further_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    rows = [[str(number), "x", "y"] for number in range(7)]
    sheets = sheets_of(await written(rows))
    assert list(sheets) == ["messages", "messages 2", "messages 3"]
    assert all(sheet[0] == list(COLUMNS) and len(sheet) <= 4 for sheet in sheets.values())
    assert [row for sheet in sheets.values() for row in sheet[1:]] == rows


async def test_no_sheet_grows_past_what_an_entry_of_the_archive_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._LARGEST_SHEET < zipfile.ZIP64_LIMIT  # noqa: SLF001 - the bound that holds without a sheet so large
    monkeypatch.setattr(module, "_LARGEST_SHEET", 1000)
    rows = [[str(number), "x", "y" * 500] for number in range(9)]
    sheets = sheets_of(await written(rows))
    assert len(sheets) > 2
    assert all(sheet[0] == list(COLUMNS) for sheet in sheets.values())
    assert [row for sheet in sheets.values() for row in sheet[1:]] == rows


@pytest.mark.parametrize("letter", ["x", "پ", "😀"])
async def test_a_cell_that_is_too_long_for_a_spreadsheet_says_that_it_is_cut(letter: str) -> None:
    units = len(letter.encode("utf-16-le")) // 2
    longest = letter * (module.LONGEST_CELL // units)
    [_, [whole, cut, _]] = sheets_of(await written([[longest, longest + letter * 2, ""]]))["messages"]
    assert whole == longest
    assert cut is not None
    assert cut.endswith("… (cut)")
    assert len(cut.encode("utf-16-le")) // 2 <= module.LONGEST_CELL


async def test_it_is_sent_while_it_is_written() -> None:
    rows = [[str(number), "x" * 200, str(number * 7919)] for number in range(20_000)]
    pieces = [len(piece) async for piece in workbook("messages", COLUMNS, pages_of(rows, 1000))]
    assert len(pieces) > 10
    assert max(pieces) < 200_000


async def test_a_reader_who_leaves_early_leaves_nothing_open() -> None:
    rows = [[str(number), "x" * 2000, "y"] for number in range(1000)]
    pieces = workbook("messages", COLUMNS, pages_of(rows, 100))
    assert await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
