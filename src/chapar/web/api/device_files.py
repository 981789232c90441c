"""`/devices/import` and `/devices/export`: devices as tables, CSV or xlsx."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from chapar.devices.columns import COLUMNS, cells_of
from chapar.devices.importing import Importing, Outcome, Row
from chapar.devices.registry import Registry
from chapar.devices.tables import Table
from chapar.errors import Language
from chapar.model.cells import guarded
from chapar.model.device import KnownDevice
from chapar.model.principal import Caller, Scope
from chapar.model.report import Format
from chapar.web.api.devices import DeviceConditions
from chapar.web.api.reports import csv_line, file_name, with_bom
from chapar.web.api.spreadsheets import SpreadsheetResponse, Spreadsheets
from chapar.web.http.body import read_body
from chapar.web.http.chunks import begun, in_chunks
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow
from chapar.web.http.problems import answers, language_of
from chapar.web.http.rates import BodyShare, Limits

_TABLE: Final = {"type": "string", "format": "binary"}


class ImportQuery(BaseModel):
    """The way in which a table is imported."""

    dry_run: bool = Field(default=False, description="Change nothing: answer what would become of each row.")


class ImportedRow(BaseModel):
    """The outcome of a row, or of a dry run for it."""

    row: int = Field(description="As a spreadsheet counts: the header is the first.", examples=[2])
    imei: str = Field(description="The device, as far as the row names one.", examples=["861234567890123"])
    outcome: Outcome = Field(examples=[Outcome.CREATED])
    code: str | None = Field(description="Of `refused`: the code of the error.", examples=[None])
    reason: str | None = Field(description="Of `refused`: why, and what to do.", examples=[None])


class ImportAnswer(BaseModel):
    """The outcome of each row of a table that has any text, in their order."""

    dry_run: bool
    summary: dict[Outcome, int] = Field(
        description="Rows by their outcome.",
        examples=[{"created": 998, "changed": 1, "unchanged": 0, "refused": 1}],
    )
    rows: list[ImportedRow]


class ExportQuery(DeviceConditions):
    """Conditions on devices, and the form of the file."""

    format: Literal["csv", "xlsx"] = Field("csv", description="The form of the file.")
    bom: bool = Field(
        default=False,
        description="Begin CSV with a byte order mark, by which a spreadsheet knows its encoding.",
    )


def device_files_router(
    registry: Registry, importing: Importing, spreadsheets: Spreadsheets, limits: Limits
) -> APIRouter:
    """The routes of files with devices; before those of single devices, of which none is found by these names."""
    router = APIRouter(prefix="/devices", tags=["devices"], route_class=GuardedRoute)

    @router.get(
        "/export",
        summary="Every device as a table, as a stream",
        operation_id="export_devices",
        response_class=AdmittedStream,
        responses={
            200: {
                "description": "However many there are: they are streamed, and memory stays constant.",
                "content": {
                    Format.CSV.media_type: {"schema": {"type": "string"}},
                    Format.XLSX.media_type: {"schema": _TABLE},
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
    @allow(Scope.DEVICES_READ)
    async def export(query: Annotated[ExportQuery, Query()], caller: Calling) -> AdmittedStream:
        """A table with the columns `imei`, `name`, `profile` and `labels`, which can be imported as it is.

        In CSV, cells that a spreadsheet would run as a formula begin with `'`. For a spreadsheet take `xlsx`: every
        cell is text, so that no id becomes a number.
        """
        pages = await begun(registry.all(caller, query.filters()))
        return device_file(spreadsheets, caller, pages, Format(query.format), bom=query.bom)

    @router.post(
        "/import",
        summary="Register or describe the devices of a table",
        operation_id="import_devices",
        response_model=ImportAnswer,
        responses=answers(400, 408, 413, 415, 422, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    Format.CSV.media_type: {
                        "schema": {"type": "string", "examples": ["imei,name,labels.farm\n861234567890123,pump,1\n"]}
                    },
                    Format.XLSX.media_type: {"schema": _TABLE},
                },
            }
        },
    )
    @allow(Scope.DEVICES_WRITE)
    async def import_table(query: Annotated[ImportQuery, Query()], request: Request, caller: Calling) -> Response:
        """Save the rows that are right, each by itself, and answer what became of each; the same again changes nothing.

        The columns are `imei`, and as wanted `name`, `profile`, `labels` (`farm:1;zone:north`), and `labels.NAME` for
        one label. What no column names stays as it is, an empty cell empties it.
        """
        table = await read_table(importing, request, limits)
        language = language_of(request)
        counts: Counter[Outcome] = Counter()
        written: list[bytes] = []
        async for rows in importing.rows(caller, table, dry_run=query.dry_run):
            counts.update(row.outcome for row in rows)
            written += (orjson.dumps(_row_view(row, language)) for row in rows)
        pieces = _answer(counts, written, dry_run=query.dry_run)
        return StreamingResponse(in_chunks(pieces), media_type=Format.JSON.media_type)

    return router


async def read_table(importing: Importing, request: Request, limits: Limits) -> Table:
    """The table that a request sends; raises what `read_body` and `Importing.read` raise."""
    _, body = await read_body(
        request,
        {Format.CSV.media_type, Format.XLSX.media_type},
        limit=limits.bodies.largest_bulk,
        setting="CHAPAR_MAX_BULK_BYTES",
    )
    table = await importing.read(body)
    share: BodyShare = request.scope["body_share"]
    share.take(table.size)
    return table


def device_file(
    spreadsheets: Spreadsheets,
    caller: Caller,
    pages: AsyncIterator[list[KnownDevice]],
    form: Format,
    *,
    bom: bool = True,
) -> AdmittedStream:
    """Devices as a file, CSV or xlsx; `bom`: CSV begins with a byte order mark."""
    headers = {"Content-Disposition": f'attachment; filename="{file_name("devices", form)}"'}
    if form is Format.XLSX:
        rows = ([cells_of(known.device) for known in page] async for page in pages)
        return SpreadsheetResponse(spreadsheets.made(caller, "devices", COLUMNS, rows), headers)
    stream = _as_csv(pages)
    return AdmittedStream(with_bom(stream) if bom else stream, media_type=form.media_type, headers=headers)


async def _as_csv(pages: AsyncIterator[list[KnownDevice]]) -> AsyncIterator[bytes]:
    """Devices as CSV, without formulas."""
    yield csv_line(COLUMNS)
    async for page in pages:
        async for chunk in in_chunks(csv_line(list(map(guarded, cells_of(known.device)))) for known in page):
            yield chunk


def _row_view(row: Row, language: Language) -> dict[str, object]:
    error = row.error
    return {
        "row": row.number,
        "imei": row.imei,
        "outcome": row.outcome,
        "code": None if error is None else error.code,
        "reason": None if error is None else error.sentence(language),
    }


def _answer(counts: Counter[Outcome], rows: list[bytes], *, dry_run: bool) -> Iterator[bytes]:
    summary = {outcome.value: counts[outcome] for outcome in Outcome}
    opening = b'{"dry_run":%b,"summary":%b,"rows":[\n' % (orjson.dumps(dry_run), orjson.dumps(summary))
    for row in rows:
        yield opening + row
        opening = b",\n"
    yield b"\n]}\n"
