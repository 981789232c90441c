"""`chapar report`: everything that was sent, into a file or to standard output."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from chapar.cli.client import GatewayClient
from chapar.cli.options import Device, Operation, Since, Statuses, Until, Url, filters_of
from chapar.cli.sentences import say
from chapar.cli.terminal import check_output, show_progress
from chapar.errors import Language, Phrase, UsageInvalid
from chapar.model.report import Format
from chapar.runtime.settings import preferred_language

_SHOW_EVERY: Final = 1 << 20  # bytes between two lines of progress


def report(  # noqa: PLR0913 - each is an option of the command
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Written when it is whole. Without: standard output.")
    ] = None,
    *,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="[default: as FILE ends, else csv]", show_default=False),
    ] = None,
    bom: Annotated[bool, typer.Option("--bom", help="Begin CSV with a mark by which Excel finds UTF-8.")] = False,
    device: Device = None,
    operation: Operation = None,
    status: Statuses = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
) -> None:
    """Write everything that was sent, oldest first, however much it is; for spreadsheets as xlsx.

    Example: `chapar report messages.xlsx --since 7d`

    Example: `chapar report --format ndjson --status rejected | jq .reason`
    """
    language = preferred_language()
    filters = filters_of(device, operation, status, since, until)
    form = form or _form_of(file)
    if file is None and form is Format.XLSX and sys.stdout.isatty():
        raise UsageInvalid(Phrase("usage.binary"))
    options = {"bom": "true"} if bom else {}
    with GatewayClient(url, language) as gateway, gateway.report(filters, form, options) as pieces:
        if file is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
                check_output()
        else:
            write_file(file, pieces, language)


def _form_of(file: Path | None) -> Format:
    suffix = "" if file is None else file.suffix.removeprefix(".").lower()
    return Format(suffix) if suffix in set(Format) else Format.CSV


def write_file(file: Path, pieces: Iterator[bytes], language: Language) -> None:
    """Write a file, and show how far it has come; raises UsageInvalid."""
    size = shown = 0
    try:
        with _opened(file) as opened:
            for piece in pieces:
                opened.write(piece)
                size += len(piece)
                if size - shown >= _SHOW_EVERY:
                    shown = size
                    show_progress(say("report.progress", language, mebibytes=size / _SHOW_EVERY))
    except OSError as error:
        raise UsageInvalid(Phrase("usage.file", file=file, cause=error.strerror or str(error))) from None
    finally:
        show_progress("")


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A file that takes its place where the block ends well; a pipe or a device is written to as it is."""
    if file.exists() and not file.is_file():
        with file.open("wb") as opened:
            yield opened
        return
    target = Path(os.path.realpath(file))
    part = target.with_name(f"chapar-report.{os.getpid()}.part")
    try:
        with part.open("wb") as opened:
            yield opened
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink()
