"""The program that writes a workbook of text cells, which `spreadsheets.py` starts.

It reads lines of JSON: the name and the columns, then a row each, then `null`. Its argument is the folder of the
parts, its standard output is the file. What stops it stands on its standard error, as one line; an input that ends
early means that nobody waits any more.
"""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Final

from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

MOST_ROWS: Final = 1_048_576  # of one sheet, its header included; further ones stand on further sheets
LONGEST_CELL: Final = 32_767  # UTF-16 units; a spreadsheet refuses a file with more in one cell
LARGEST_SHEET: Final = 1 << 30  # bytes of XML; not every reader knows the form for entries of 2 GiB (zip64)
SPARED: Final = 64 << 20  # bytes that the disk keeps for others: the database may be on it
_LOOK_EVERY: Final = 100  # rows between looks at the disk: at most 14 MB
_PATIENT: Final = 10  # of 19 (nice(2)): what is sent to devices goes first
_CUT: Final = "… (cut)"

# What XML cannot hold, and what would be read as the way to write it (ST_Xstring, ECMA-376 part 1 §22.9.2.19).
_UNWRITABLE: Final = re.compile(
    "[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)"
    "|^<(?=r>)"  # XlsxWriter takes text between <r> and </r> for XML of its own
)


class Sheet(Worksheet):
    """A sheet whose cells read as they were written, whatever they say."""

    @staticmethod
    def _escape_control_characters(data: str) -> str:
        return _UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", data)


class TextWorkbook:
    """A workbook whose cells are all text: rows below their columns, on as many sheets as it takes.

    While it is written, its parts are files in a folder. Everything raises OSError.
    """

    def __init__(self, target: IO[bytes], folder: str, name: str, columns: Sequence[str]) -> None:
        self._folder = folder
        self._name = name
        self._columns = columns
        self._book = Workbook(target, {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        self._book.worksheet_class = Sheet
        # What somebody types into such a cell later stays as it was typed, too.
        self._text = self._book.add_format({"num_format": "@"})
        self._rows = 0  # of all sheets
        self._full = 0  # bytes of the sheets before this one
        self._begin_sheet()

    def add(self, row: Sequence[object]) -> None:
        """Write one more row. `None` is an empty cell."""
        if self._rows % _LOOK_EVERY == 0:
            self._check_disk()
        if self._row == MOST_ROWS:
            self._begin_sheet()
        self._write(row)
        self._rows += 1

    def close(self) -> None:
        """Put the parts together."""
        try:
            self._book.close()
        except FileCreateError as error:
            raise error.args[0] from None

    def _begin_sheet(self) -> None:
        number = len(self._book.worksheets()) + 1
        self._sheet = self._book.add_worksheet(self._name if number == 1 else f"{self._name} {number}")
        self._sheet.freeze_panes(1, 0)
        self._sheet.set_column(0, len(self._columns) - 1, 20, self._text)
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{MOST_ROWS}"})
        self._row = 0
        self._write(self._columns)

    def _write(self, row: Sequence[object]) -> None:
        for column, value in enumerate(row):
            if value is not None:
                self._sheet.write_string(self._row, column, _text_of(value))
        self._row += 1

    def _check_disk(self) -> None:
        with os.scandir(self._folder) as files:
            size = sum(file.stat().st_size for file in files)
        # In the end a sheet is copied behind its head, and all of them are packed.
        if shutil.disk_usage(self._folder).free < 2 * size + SPARED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size - self._full > LARGEST_SHEET:
            self._full = size
            self._begin_sheet()


def write(lines: Iterator[bytes], target: IO[bytes], folder: str) -> bool:
    """Write the workbook that the lines describe; False where they end early. Raises OSError.

    The folder is removed: whoever has made it may have been killed.
    """
    try:
        name, columns = json.loads(next(lines))
        book = TextWorkbook(target, folder, name, columns)
        for line in lines:
            row = json.loads(line)
            if row is None:
                book.close()
                return True
            book.add(row)
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _text_of(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_CELL // 2 else _shortened(text)


def _shortened(text: str) -> str:
    units = text.encode("utf-16-le", "surrogatepass")
    if len(units) <= 2 * LONGEST_CELL:
        return text
    return units[: 2 * (LONGEST_CELL - len(_CUT))].decode("utf-16-le", "ignore") + _CUT


def main() -> None:
    """Write one workbook, with as little of the processor as others leave."""
    with suppress(OSError):  # where a sandbox forbids it
        os.nice(_PATIENT)
    try:
        is_whole = write(iter(sys.stdin.buffer), sys.stdout.buffer, sys.argv[1])
    except OSError as error:
        print(error.strerror or error, file=sys.stderr, flush=True)  # noqa: T201 - read by who started it
        # At once: on the way out, the archive would try to write its end.
        os._exit(os.EX_IOERR)
    sys.exit(os.EX_OK if is_whole else os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
