"""The program that reads a table, which `tables.py` starts: CSV, or the first sheet of an xlsx workbook.

It reads the file from its standard input, and writes lines of JSON: a row each, with its number as a spreadsheet
counts and its cells as text, but for rows without any; then what is wrong with the file.
"""

import codecs
import csv
import io
import json
import os
import resource
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from chapar.model.cells import unguarded

MOST_ROWS: Final = 100_000  # below the header: as many devices as a gateway knows unless its settings say otherwise
MOST_COLUMNS: Final = 100
LONGEST_ROW: Final = 16_384  # characters: twice those of a name and all labels, each written with a sign in front
LARGEST: Final = 64 << 20  # bytes of an unpacked workbook
MOST_TEXT: Final = 16 << 20  # characters of all rows
MOST_MEMORY: Final = 512 << 20  # bytes of addresses; a workbook of 16 MiB needs a quarter of it
MOST_TIME: Final = 30  # seconds of a processor
_PATIENT: Final = 10  # of 19 (nice(2)): what is sent to devices goes first

_ZIP: Final = b"PK\x03\x04"
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # a workbook of before 2007, or one with a password
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ARABIC: Final = "cp1256"  # what Windows writes in Iran where nobody chose an encoding
_YEH: Final = str.maketrans({"\u064a": "\u06cc"})  # it has no Persian one
_SEPARATORS: Final = (",", ";", "\t")  # a spreadsheet writes what its country uses
_MOST_EXACT: Final = 10**15  # a spreadsheet keeps 15 digits of a number

Row = Sequence[str]


class TableRefused(Exception):
    """The file is no table, or too large a one: a key of the catalog, and its facts."""

    def __init__(self, key: str, **facts: object) -> None:
        super().__init__(key)
        self.key = key
        self.facts = facts


def read(content: bytes) -> Iterator[tuple[int, Row]]:
    """The rows that have any text, each with its number; the first is the header. Raises TableRefused."""
    if content.startswith(_OLE):
        raise TableRefused("old")
    numbered = _sheet(content) if content.startswith(_ZIP) else enumerate(_csv(content), 1)
    count = size = 0
    for number, row in numbered:
        if not any(map(str.strip, row)):
            continue
        if len(row) > MOST_COLUMNS and any(map(str.strip, row[MOST_COLUMNS:])):
            raise TableRefused("columns", limit=MOST_COLUMNS)
        length = sum(map(len, row))
        if length > LONGEST_ROW:
            raise TableRefused("row", row=number, limit=LONGEST_ROW)
        count += 1
        size += length
        if count > MOST_ROWS + 1:
            raise TableRefused("rows", limit=MOST_ROWS)
        if size > MOST_TEXT:
            raise TableRefused("text", limit=MOST_TEXT)
        yield number, row[:MOST_COLUMNS]


def _csv(content: bytes) -> Iterator[Row]:
    text = _decoded(content).lstrip("\ufeff")
    first, _, rest = text.partition("\n")
    named = first.strip().lower().removeprefix("sep=")
    if len(named) == 1 and first.lower().startswith("sep="):  # so that a spreadsheet knows it
        yield ()
        text, separator = rest, named
    else:
        separator = max(_SEPARATORS, key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in rows:
            yield [unguarded(cell) for cell in row]
    except csv.Error:
        raise TableRefused("csv", line=rows.line_num) from None


def _decoded(content: bytes) -> str:
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            try:
                return content[len(bom) :].decode(encoding)
            except UnicodeDecodeError:
                raise TableRefused("encoding") from None
    if b"\0" in content:
        raise TableRefused("encoding")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode(_ARABIC).translate(_YEH)


def _sheet(content: bytes) -> Iterator[tuple[int, Row]]:
    """The rows of the first sheet that is shown."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        raise TableRefused("workbook") from None
    if size > LARGEST:
        raise TableRefused("large", limit=LARGEST)

    from python_calamine import SheetVisibleEnum, load_workbook  # noqa: PLC0415 - CSV needs none of it

    try:
        book = load_workbook(io.BytesIO(content))
        shown = [each.name for each in book.sheets_metadata if each.visible == SheetVisibleEnum.Visible]
        sheet = book.get_sheet_by_name(shown[0])
        top, _ = sheet.start or (0, 0)
        rows = enumerate(sheet.iter_rows(), top + 1)
    except MemoryError:
        raise
    except BaseException:  # noqa: BLE001 - what is in Rust panics with one of these
        raise TableRefused("workbook") from None
    for number, row in rows:
        yield number, [_text(cell) for cell in row]


def _text(cell: object) -> str:
    match cell:
        case bool():
            return str(cell).lower()
        case float() | int():
            return _number(cell)
        case str():
            return cell
        case _:  # a day or a time
            return getattr(cell, "isoformat", cell.__str__)()


def _number(value: float) -> str:
    if value != int(value):
        return repr(value)
    # One whose last digits are gone must not pass for an id.
    return str(int(value)) if abs(value) < _MOST_EXACT else f"{value:.14E}"


def write(rows: Iterable[tuple[int, Row]], target: io.TextIOBase) -> None:
    """Write the rows, and behind them what is wrong with the file: a key of the catalog, or null, and its facts."""
    problem: tuple[str | None, dict[str, object]] = None, {}
    try:
        target.writelines(_line([number, *row]) for number, row in rows)
    except TableRefused as refused:
        problem = refused.key, refused.facts
    except MemoryError:
        problem = "memory", {}
    target.write(_line(problem))
    target.flush()


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def main() -> None:
    """Read one table, within bounds of memory and time."""
    with suppress(OSError):  # where a sandbox forbids it
        os.nice(_PATIENT)
    for kind, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, MOST_TIME)):
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    warnings.simplefilter("ignore")
    write(read(sys.stdin.buffer.read()), io.TextIOWrapper(sys.stdout.buffer, "utf-8", "replace"))


if __name__ == "__main__":
    main()
