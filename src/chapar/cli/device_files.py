"""`chapar devices import` and `chapar devices export`: devices as tables, CSV or xlsx."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict

from chapar.cli.bulk import content_of
from chapar.cli.client import SPREADSHEET_TIMEOUT, GatewayClient
from chapar.cli.options import DeviceLabels, DevicePresence, DeviceProfile, Json, Search, Url, device_query
from chapar.cli.report import write_file
from chapar.cli.sentences import say, word
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, progress
from chapar.errors import Language, Phrase, UsageInvalid, persian_digits
from chapar.model.lines import json_line
from chapar.model.report import Format
from chapar.runtime.settings import preferred_language

_REFUSED: Final = 1  # exit code
_ZIP: Final = b"PK\x03\x04"  # with which a workbook begins
_FORMS: Final = (Format.CSV, Format.XLSX)
_HEADINGS: Final = ("row", "device", "outcome", "reason")


class ImportedRow(BaseModel):
    """The outcome of a row, as the gateway shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    row: int
    imei: str
    outcome: str  # a newer gateway may know more of them
    reason: str | None = None


class Imported(BaseModel):
    """The outcome of all rows, likewise."""

    rows: list[ImportedRow]


def import_devices(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV or xlsx; `-` is standard input.", show_default=False)
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would become of each row.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register the devices of a table, or change what is said of them, as far as its columns say.

    The columns are `imei`, and as wanted `name`, `profile`, `labels` (`farm:1;zone:north`), and `labels.NAME` for one
    label. Exit code 0: all rows are right. 1: some were refused, and a table says which and why.

    Example: `chapar devices import devices.xlsx --dry-run`
    """
    language = preferred_language()
    content = content_of(file)
    form = Format.XLSX if content.startswith(_ZIP) else Format.CSV
    query = {"dry_run": "true"} if dry_run else {}
    with GatewayClient(url, language) as gateway, progress(say("devices.importing", language)):
        rows = gateway.upload(Imported, "/devices/import", query, content, form.media_type, SPREADSHEET_TIMEOUT).rows
    counts = Counter(row.outcome for row in rows)
    if as_json:
        for row in rows:
            typer.echo(json_line(row.model_dump()))
    elif shown := [row for row in rows if row.outcome != "unchanged" and (dry_run or row.outcome == "refused")]:
        print_table(_HEADINGS, [_cells(row, language) for row in shown], language)
    facts = {outcome: counts[outcome] for outcome in ("created", "changed", "unchanged", "refused")}
    end = say("devices.would_import", language, **facts) if dry_run else say("devices.imported", language, **facts)
    typer.echo(end, err=as_json)
    check_output()
    if counts["refused"]:
        raise typer.Exit(_REFUSED)


def export_devices(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Written when it is whole. Without: standard output.")
    ] = None,
    *,
    form: Annotated[
        str | None, typer.Option("--format", help="`csv` or `xlsx`. [default: as FILE ends, else csv]")
    ] = None,
    bom: Annotated[bool, typer.Option("--bom", help="Begin CSV with a mark by which Excel finds UTF-8.")] = False,
    presence: DevicePresence = None,
    label: DeviceLabels = None,
    profile: DeviceProfile = None,
    search: Search = None,
    url: Url = None,
) -> None:
    """Write devices as a table that `chapar devices import` takes as it is; for spreadsheets as xlsx.

    Example: `chapar devices export devices.xlsx --label farm:1`
    """
    language = preferred_language()
    query = device_query(presence, label, profile, search)
    chosen = _form(form, file)
    if file is None and chosen is Format.XLSX and sys.stdout.isatty():
        raise UsageInvalid(Phrase("usage.binary"))
    query |= {"format": chosen.value, **({"bom": "true"} if bom else {})}
    with GatewayClient(url, language) as gateway, gateway.download("/devices/export", query, chosen) as pieces:
        if file is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
                check_output()
        else:
            write_file(file, pieces, language)


def _form(name: str | None, file: Path | None) -> Format:
    if name is None:
        name = "" if file is None else file.suffix.removeprefix(".").lower()
        return Format(name) if name in _FORMS else Format.CSV
    if name not in _FORMS:
        raise UsageInvalid(Phrase("usage.option", option="--format", rule=Phrase("rule.one_of", names=_FORMS)))
    return Format(name)


def _cells(row: ImportedRow, language: Language) -> Sequence[str]:
    number = str(row.row)
    return (
        persian_digits(number) if language == "fa" else number,
        row.imei,
        word("row_outcome", row.outcome, language),
        row.reason or "",
    )
