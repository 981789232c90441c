"""`chapar bulk`: many messages from a file, and a table of those that were not accepted."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from chapar.cli.client import Answered, GatewayClient
from chapar.cli.options import MARGIN, IdempotencyKey, Json, Url
from chapar.cli.sentences import say
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, show_progress
from chapar.errors import BodyMalformed, Language, Phrase, RequestError, UsageInvalid
from chapar.model.json_text import as_json, check_grammar, parse
from chapar.model.lines import json_line
from chapar.model.message import LONGEST_WAIT
from chapar.runtime.settings import preferred_language

AT_A_TIME: Final = 1000  # messages of one call; some seconds where each waits for the broker
LARGEST: Final = 4 * 1024 * 1024  # bytes of one call; a gateway takes 16 MiB unless told otherwise
AT_A_TIME_WITH_KEY: Final = LARGEST // (64 * 1024)  # a gateway takes 64 KiB for a message unless told otherwise
_STDIN: Final = "-"
_REFUSED: Final = 1  # exit code


class _Item(NamedTuple):
    """A message of the file."""

    place: int  #: its line; in a JSON list its number
    content: bytes  #: JSON on one line


def bulk(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, NDJSON or JSON; `-` is standard input.", show_default=False)
    ],
    *,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send the messages of a file; what is accepted goes on whatever becomes of the others.

    CSV has a column for each field (`imei`, `micro_op`, `expires_in`, …) and `params.NAME` for parameters. Exit code 0:
    all were accepted. 1: some were not, and a table says which and why.

    Example: `chapar bulk valves.csv --idempotency-key 2026-11-29`
    """
    language = preferred_language()
    items = list(_items(file, content_of(file)))
    if not items:
        raise UsageInvalid(Phrase("usage.no_messages", file=file))
    accepted = 0
    refused: list[tuple[_Item, Answered]] = []
    with GatewayClient(url, language) as gateway:
        try:
            for number, call in enumerate(_calls(items, with_key=idempotency_key is not None)):
                show_progress(say("bulk.progress", language, done=accepted + len(refused), all=len(items)))
                key = None if idempotency_key is None else f"{idempotency_key}-{number}"
                answers = gateway.send_all([item.content for item in call], LONGEST_WAIT + MARGIN, key)
                if as_json:
                    _print_json(call, answers)
                accepted += sum(answer.accepted for answer in answers)
                refused += [pair for pair in zip(call, answers, strict=True) if not pair[1].accepted]
        finally:
            show_progress("")
            if not as_json:
                _print(refused, language)
            left = len(items) - accepted - len(refused)
            said = say("bulk.end", language, accepted=accepted, refused=len(refused), left=left)
            typer.echo(said, err=as_json)
    check_output()
    if refused:
        raise typer.Exit(_REFUSED)


def _calls(items: Iterable[_Item], *, with_key: bool) -> Iterator[list[_Item]]:
    """Cut the messages into calls; with a key by number alone, because it covers each message at its place."""
    most, largest = (AT_A_TIME_WITH_KEY, math.inf) if with_key else (AT_A_TIME, LARGEST)
    call: list[_Item] = []
    size = 0
    for item in items:
        if len(call) == most or (call and size + len(item.content) > largest):
            yield call
            call, size = [], 0
        call.append(item)
        size += len(item.content) + 1
    yield call


def content_of(file: str) -> bytes:
    """Read a file, or standard input where it is `-`; raises UsageInvalid."""
    try:
        return sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
    except OSError as error:
        raise UsageInvalid(Phrase("usage.file", file=file, cause=error.strerror or str(error))) from None


def _items(file: str, content: bytes) -> Iterator[_Item]:
    """The messages of a file; raises UsageInvalid, naming the line."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith((b"{", b"[")):
        yield from _in_csv(file, content)
    elif (document := _document(file, content)) is not None:
        for number, message in enumerate(document, 1):
            yield _Item(number, as_json(message))
    else:
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.strip():
                _check_json(file, number, line)
                yield _Item(number, line.strip())


def _document(file: str, content: bytes) -> Sequence[object] | None:
    """The messages of one JSON document, `[…]` or `{"messages": […]}`; None where it is none. Raises UsageInvalid."""
    try:
        check_grammar(content)
    except BodyMalformed:
        return None
    try:
        document = parse(content)
    except RequestError as error:
        raise UsageInvalid(Phrase("usage.document", file=file, problem=error)) from None
    if isinstance(document, dict) and document.keys() == {"messages"}:
        document = document["messages"]
    return document if isinstance(document, list) else None


def _check_json(file: str, number: int, line: bytes) -> None:
    """Raise UsageInvalid where a line is not JSON: in one call with others it would stop them all."""
    try:
        parse(line)
    except RequestError as error:
        raise UsageInvalid(Phrase("usage.line", file=file, line=number, problem=error)) from None


def _in_csv(file: str, content: bytes) -> Iterator[_Item]:
    from chapar.web.api.rows import Columns, in_rows  # noqa: PLC0415 - only this command needs it, and it takes long

    columns: Columns | None = None
    line, at = 1, 0
    try:
        for row in in_rows(content):
            if row is None:
                continue
            line, at = line + content.count(b"\n", at, row.start), row.start
            if columns is None:
                columns = Columns(content[row])
            else:
                yield _Item(line, columns.message(content[row]))
    except RequestError as error:
        raise UsageInvalid(Phrase("usage.line", file=file, line=line, problem=error)) from None


def _print_json(call: Sequence[_Item], answers: Sequence[Answered]) -> None:
    for item, answer in zip(call, answers, strict=True):
        typer.echo(json_line({"line": item.place, "status": answer.status, "body": answer.body}))


def _print(refused: Sequence[tuple[_Item, Answered]], language: Language) -> None:
    if refused:
        print_table(
            ("line", "device", "operation", "code", "reason"),
            [
                (str(item.place), *_names(item), str(answer.body.get("code")), str(answer.body.get("reason")))
                for item, answer in refused
            ],
            language,
        )


def _names(item: _Item) -> tuple[str, str]:
    """The device and the operation of a message, as far as it says them."""
    try:
        message = json.loads(item.content)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return "", ""
    return str(message.get("imei", "")), str(message.get("micro_op", ""))
