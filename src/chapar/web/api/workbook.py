"""A spreadsheet (Office Open XML, ECMA-376) of text cells, written while it is sent: neither disk nor memory hold it.

Libraries that write workbooks put the whole of it into a file first.
"""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, ZipFile

from chapar.web.http.chunks import in_chunks

MOST_ROWS: Final = 1_048_576  # of one sheet, its header included; further ones stand on further sheets
LONGEST_CELL: Final = 32_767  # UTF-16 units; a spreadsheet refuses a file with more in one cell
_LARGEST_SHEET: Final = 1 << 30  # bytes of XML; from 2 GiB on, `zipfile` wants to know before that it will be so many
_CUT: Final = "… (cut)"

_NAMESPACE: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_TYPES: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PROLOGUE: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'

# What XML cannot hold, and what would be read as the way to write it (ST_Xstring, ECMA-376 part 1 §22.9.2.19).
_UNWRITABLE: Final = re.compile("[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")

_STYLES: Final = (
    f'<styleSheet xmlns="{_NAMESPACE}"><fonts count="1"><font><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill>'
    '</fills><borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders><cellStyleXfs '
    'count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs><cellXfs count="2"><xf numFmtId="0" '
    'fontId="0" fillId="0" borderId="0" xfId="0"/>'
    # Format 49 is text: what somebody types into such a cell later stays as it was typed, too.
    '<xf numFmtId="49" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)


class _Outlet:
    """A file that cannot be wound back, from which what is written is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        """Keep it until it is taken."""
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing, as nothing waits elsewhere."""

    def close(self) -> None:
        """Do nothing, as nothing is open."""

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


async def workbook(
    name: str, columns: Sequence[str], pages: AsyncIterator[Iterable[Sequence[object]]]
) -> AsyncIterator[bytes]:
    """The file in pieces: all rows below their columns, on as many sheets called `name` as it takes."""
    outlet = _Outlet()
    sheets = 1
    with ZipFile(outlet, "w", ZIP_DEFLATED) as archive:
        sheet = archive.open(_sheet_file(sheets), "w")
        try:
            size = sheet.write(_opening(columns))
            count = 1
            async for page in pages:
                async for chunk in in_chunks(map(_row, page)):
                    rows = chunk.count(_ROW_END)
                    if count + rows > MOST_ROWS or size > _LARGEST_SHEET:
                        sheet.write(_CLOSING)
                        sheet.close()
                        sheets += 1
                        sheet = archive.open(_sheet_file(sheets), "w")
                        size, count = sheet.write(_opening(columns)), 1
                    size += sheet.write(chunk)
                    count += rows
                    if piece := outlet.take():
                        yield piece
            sheet.write(_CLOSING)
        finally:
            sheet.close()
        for file, content in _frame(name, sheets):
            archive.writestr(file, _PROLOGUE + content)
    yield outlet.take()


_ROW_END: Final = b"</row>"
_CLOSING: Final = (
    f'</sheetData><ignoredErrors><ignoredError sqref="A1:XFD{MOST_ROWS}" numberStoredAsText="1"/></ignoredErrors>'
    "</worksheet>"
).encode()


def _opening(columns: Sequence[str]) -> bytes:
    head = (
        f'{_PROLOGUE}<worksheet xmlns="{_NAMESPACE}"><sheetViews><sheetView workbookViewId="0">'
        '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>'
        f'<cols><col min="1" max="{len(columns)}" width="20" style="1" customWidth="1"/></cols><sheetData>'
    )
    return head.encode() + _row(columns)


def _row(cells: Iterable[object]) -> bytes:
    return f"<row>{''.join(map(_cell, cells))}</row>".encode()


def _cell(value: object) -> str:
    if value is None:
        return '<c s="1"/>'
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > LONGEST_CELL // 2:
        text = _shortened(text)
    written = escape(_UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", text))
    return f'<c s="1" t="inlineStr"><is><t xml:space="preserve">{written}</t></is></c>'


def _shortened(text: str) -> str:
    units = text.encode("utf-16-le", "surrogatepass")
    if len(units) <= 2 * LONGEST_CELL:
        return text
    return units[: 2 * (LONGEST_CELL - len(_CUT))].decode("utf-16-le", "ignore") + _CUT


def _sheet_file(number: int) -> str:
    return f"xl/worksheets/sheet{number}.xml"


def _frame(name: str, sheets: int) -> Iterable[tuple[str, str]]:
    """The files around the sheets."""
    numbers = range(1, sheets + 1)
    yield "xl/styles.xml", _STYLES
    listed = "".join(
        f'<sheet name="{name}{"" if number == 1 else f" {number}"}" sheetId="{number}" r:id="rId{number}"/>'
        for number in numbers
    )
    yield (
        "xl/workbook.xml",
        f'<workbook xmlns="{_NAMESPACE}" xmlns:r="{_RELATIONS}"><sheets>{listed}</sheets></workbook>',
    )
    related = "".join(
        f'<Relationship Id="rId{number}" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in numbers
    )
    styles = f'<Relationship Id="rId{sheets + 1}" Type="{_RELATIONS}/styles" Target="styles.xml"/>'
    yield "xl/_rels/workbook.xml.rels", _relationships(related + styles)
    document = f'<Relationship Id="rId1" Type="{_RELATIONS}/officeDocument" Target="xl/workbook.xml"/>'
    yield "_rels/.rels", _relationships(document)
    parts = {"xl/workbook.xml": "sheet.main", "xl/styles.xml": "styles"}
    parts |= {_sheet_file(number): "worksheet" for number in numbers}
    overrides = "".join(
        f'<Override PartName="/{file}" ContentType="{_TYPES}.{kind}+xml"/>' for file, kind in parts.items()
    )
    rels = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    yield "[Content_Types].xml", f'<Types xmlns="{_PACKAGE}/content-types">{rels}{overrides}</Types>'


def _relationships(content: str) -> str:
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{content}</Relationships>'
