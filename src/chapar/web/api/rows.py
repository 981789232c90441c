"""The messages of a CSV body (RFC 4180): one a row, in columns named like the fields, parameters as `params.NAME`."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from chapar.errors import BodyMalformed, FieldInvalid, Phrase, RowMalformed
from chapar.model.cells import is_shortened
from chapar.model.json_text import as_json, parse, shown
from chapar.web.api.items import Steps, past
from chapar.web.api.schemas import SendRequest

_BOM: Final = b"\xef\xbb\xbf"
_PARAM: Final = "params."
_PIECE: Final = 64 * 1024  # bytes of a line that one step looks at; no longer one is a message
_MOST_COLUMNS: Final = 1000  # the fields, and parameters by the hundred
_SEPARATORS: Final = (",", ";", "\t")  # a spreadsheet writes what its country uses
_BOOLEANS: Final = {"true": True, "false": False}
_EMPTY: Final = b" \t\r,;"  # what a row without any content consists of
_EMPTY_ROWS: Final = re.compile(rb"(?:[ \t\r,;]*+\n)*+")

# What JSON takes over without changing it: no leading zero, no exponent, no more digits than a double has.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,8})\.[0-9]{0,5}[1-9]")


class Columns:
    """The header of a CSV body, by which its rows are read."""

    def __init__(self, header: bytes) -> None:
        """Raises FieldInvalid for a column that is no field, RowMalformed for a header that is no row."""
        text = _decoded(header)
        self._separator = max(_SEPARATORS, key=text.count)
        self._names = [name.strip() for name in _cells(text, self._separator)]
        if len(self._names) > _MOST_COLUMNS:
            raise RowMalformed(Phrase("body.columns", limit=_MOST_COLUMNS))
        seen: set[str] = set()
        for name in self._names:
            if name not in SendRequest.model_fields and not (name.startswith(_PARAM) and name != _PARAM):
                raise FieldInvalid(shown(name), Phrase("rule.column"))
            if name in seen:
                raise FieldInvalid(shown(name), Phrase("rule.repeated"))
            seen.add(name)

    def message(self, row: bytes) -> bytes:
        """The row as a message in JSON; an empty cell is an absent field. Raises RowMalformed, FieldInvalid."""
        cells = _cells(_decoded(row), self._separator)
        if len(cells) > len(self._names) and any(cells[len(self._names) :]):
            raise RowMalformed(Phrase("body.cells", cells=len(cells), columns=len(self._names)))
        message: dict[str, object] = {}
        params: dict[str, object] = {}
        for name, cell in zip(self._names, cells, strict=False):
            if not cell.strip():
                continue
            if name.startswith(_PARAM):
                params[name.removeprefix(_PARAM)] = _value(cell)
            else:
                message[name] = _FIELDS.get(name, str)(cell.strip())
        if params:
            given = message.setdefault("params", {})
            if not isinstance(given, dict) or given.keys() & params.keys():
                raise FieldInvalid("params", Phrase("rule.repeated"))
            message["params"] = given | params
        if isinstance(device := message.get("imei"), str) and is_shortened(device):
            raise FieldInvalid("imei", Phrase("rule.shortened"))
        return as_json(message)


def in_rows(body: bytes) -> Steps:
    """The rows of CSV, its header first: lines that are not blank, and further ones while a quotation mark is open.

    Raises RowMalformed where one stays open.
    """
    at = len(_BOM) if body.startswith(_BOM) else 0
    while (at := (yield from past(_EMPTY_ROWS, body, at))) < len(body):
        begin, quotes = at, 0
        while True:
            end = body.find(b"\n", at)
            end = len(body) if end < 0 else end
            while end - at > _PIECE:
                quotes += body.count(b'"', at, at + _PIECE)
                at += _PIECE
                yield None
            quotes += body.count(b'"', at, end)
            at = min(end + 1, len(body))
            if quotes % 2 == 0:
                break
            if at == len(body):
                raise RowMalformed(Phrase("body.endless_quote", line=body.count(b"\n", 0, begin) + 1))
            yield None
        has_content = end - begin > _PIECE or body[begin:end].strip(_EMPTY)
        yield slice(begin, end) if has_content else None


def _decoded(row: bytes) -> str:
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        raise RowMalformed(Phrase("body.encoding", place=error.start + 1)) from None


def _cells(row: str, separator: str) -> list[str]:
    try:
        rows = list(csv.reader(io.StringIO(row.rstrip("\r"), newline=""), delimiter=separator, strict=True))
    except csv.Error:
        raise RowMalformed(Phrase("body.cell", limit=csv.field_size_limit())) from None
    if len(rows) != 1:  # a quotation mark or a line end inside of a cell that does not begin with a quotation mark
        raise RowMalformed(Phrase("body.loose_quote"))
    return rows[0]


def _value(cell: str) -> object:
    """A parameter: JSON where the cell is JSON that says no more and no less, else its text."""
    text = cell.strip()
    if text.lower() in _BOOLEANS:
        return _boolean(text)
    if text[0] in '{["':
        with suppress(BodyMalformed):
            return parse(text.encode())
    return _number(text) if _is_number(text) else cell


def _is_number(text: str) -> bool:
    return (_NUMBER.fullmatch(text) or _DECIMAL.fullmatch(text)) is not None and text != "-0"


def _number(text: str) -> object:
    """A number; what is none is left to the rules of the field."""
    return json.loads(text) if _is_number(text) else text


def _boolean(text: str) -> object:
    return _BOOLEANS.get(text.lower(), text)


def _object(text: str) -> object:
    try:
        return parse(text.encode())
    except BodyMalformed:
        raise FieldInvalid("params", Phrase("pydantic.dict_type")) from None


_FIELDS: Final[Mapping[str, Callable[[str], object]]] = {
    "params": _object,
    "qos": _number,
    "retain": _boolean,
    "at_most_once": _boolean,
    "expires_in": _number,
    "timeout": _number,
    "reply_within": _number,
    "only_if_online": _boolean,
    "urgent": _boolean,
    "purge": _boolean,
}
