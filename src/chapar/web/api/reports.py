"""`/reporting`: everything that was sent, as a stream, and counts of it."""

import codecs
import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter

from chapar.delivery.reports import Reporting
from chapar.model.cells import guarded, without_formulas
from chapar.model.message import Message
from chapar.model.principal import Scope
from chapar.model.report import Format
from chapar.web.api.schemas import (
    MessageView,
    Reported,
    Summarised,
    SummaryView,
    message_json,
    message_view,
    reply_json,
    summary_view,
)
from chapar.web.api.spreadsheets import SpreadsheetResponse, Spreadsheets
from chapar.web.http.chunks import begun, in_chunks, in_list
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow
from chapar.web.http.problems import answers

_COLUMNS = tuple(MessageView.model_fields)


def reporting_router(reporting: Reporting, spreadsheets: Spreadsheets) -> APIRouter:
    """The routes of `/reporting`."""
    router = APIRouter(prefix="/reporting", tags=["reporting"], route_class=GuardedRoute)

    @router.get(
        "/all",
        summary="Every message, oldest first, as a stream",
        operation_id="report_messages",
        response_class=AdmittedStream,
        responses={
            200: {
                "description": "However many there are: they are streamed, and memory stays constant.",
                "content": {
                    Format.JSON.media_type: {
                        "schema": {"type": "array", "items": {"$ref": "#/components/schemas/MessageView"}}
                    },
                    Format.NDJSON.media_type: {"schema": {"type": "string"}},
                    Format.CSV.media_type: {"schema": {"type": "string"}},
                    Format.XLSX.media_type: {"schema": {"type": "string", "format": "binary"}},
                },
                "headers": {
                    "Content-Disposition": {
                        "required": True,
                        "description": "A name for the file (RFC 6266).",
                        "schema": {"type": "string"},
                    }
                },
            },
            **answers(422, 503),
        },
    )
    @allow(Scope.READ)
    async def all_messages(query: Reported, caller: Calling) -> AdmittedStream:
        """The seed's report. In CSV, cells that a spreadsheet would run as a formula begin with `'`.

        For a spreadsheet take `xlsx`: every cell is text, so that no id becomes a number and no text a formula.
        """
        pages = await begun(reporting.report(caller, query.filters()))
        if query.format is Format.XLSX:
            rows = (map(_cells, page) async for page in pages)
            return SpreadsheetResponse(spreadsheets.made(caller, "messages", _COLUMNS, rows), _name_of(query.format))
        stream = _WRITERS[query.format](pages)
        if query.bom and query.format is Format.CSV:
            stream = with_bom(stream)
        return AdmittedStream(stream, media_type=query.format.media_type, headers=_name_of(query.format))

    @router.get(
        "/summary",
        summary="Counts by status, device, operation and time",
        operation_id="summarize_messages",
        responses=answers(422, 503),
    )
    @allow(Scope.READ)
    async def summary(query: Summarised, caller: Calling) -> SummaryView:
        """Count messages, by kind."""
        return summary_view(await reporting.summary(caller, query.filters(), query.bucket))

    return router


def _as_json(pages: AsyncIterator[list[Message]]) -> AsyncIterator[bytes]:
    return in_list(map(message_json, page) async for page in pages)


async def _as_ndjson(pages: AsyncIterator[list[Message]]) -> AsyncIterator[bytes]:
    async for page in pages:
        async for chunk in in_chunks(message_json(message) + b"\n" for message in page):
            yield chunk


async def _as_csv(pages: AsyncIterator[list[Message]]) -> AsyncIterator[bytes]:
    yield csv_line(_COLUMNS)
    async for page in pages:
        async for chunk in in_chunks(csv_line(_csv_cells(message)) for message in page):
            yield chunk


def csv_for_people(pages: AsyncIterator[list[Message]]) -> AsyncIterator[bytes]:
    """Messages as CSV that a spreadsheet opens: with a byte order mark, and without formulas."""
    return with_bom(_as_csv(pages))


async def with_bom(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same behind a byte order mark, without which a spreadsheet takes CSV for another encoding."""
    yield codecs.BOM_UTF8
    async for chunk in stream:
        yield chunk


_WRITERS: Final = {Format.JSON: _as_json, Format.NDJSON: _as_ndjson, Format.CSV: _as_csv}


def file_name(subject: str, form: Format) -> str:
    """Name a file that is made today."""
    return f"chapar-{subject}-{datetime.now(UTC):%Y-%m-%d}.{form}"


def _name_of(form: Format) -> dict[str, str]:
    """Name the download; a browser shows JSON, and saves the others."""
    kind = "inline" if form is Format.JSON else "attachment"
    return {"Content-Disposition": f'{kind}; filename="{file_name("messages", form)}"'}


def _cells(message: Message) -> list[object]:
    view = message_view(message) | _json_cells(message)
    return [view[column] for column in _COLUMNS]


def _json_cells(message: Message) -> dict[str, str | None]:
    """The cells that hold JSON."""
    return {"params": message.params, "reply": None if message.reply is None else reply_json(message.reply).decode()}


def csv_line(row: Sequence[object]) -> bytes:
    """One row of CSV, its text in quotation marks."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC).writerow(row)
    return text.getvalue().encode()


def _csv_cells(message: Message) -> list[object]:
    view = message_view(message)
    for name, text in _json_cells(message).items():
        view[name] = text and without_formulas(text)
    return [guarded(cell) if isinstance(cell := view[column], str) else cell for column in _COLUMNS]
