"""`chapar events`: what changed, and what changes."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from chapar.cli.client import GatewayClient, Moment, Query, ShownMessage
from chapar.cli.options import Device, Json, Operation, Url, moment
from chapar.cli.sentences import word
from chapar.cli.table import note
from chapar.cli.terminal import check_output, local_time
from chapar.errors import GatewayError, Language
from chapar.model.lines import json_line, plain
from chapar.model.message import check_device_id, check_operation
from chapar.model.times import milliseconds, rfc3339
from chapar.runtime.settings import preferred_language

AGAIN_AFTER: Final = 1.0  # seconds between two connections

Show = Callable[[str], None]
"""Called with the data of an event."""


class ShownPresence(BaseModel):
    """The presence of a device, as the gateway shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    state: str


class ShownDevice(BaseModel):
    """The device of an event, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    presence: ShownPresence


class ShownEvent(BaseModel):
    """An event, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str
    at: Moment
    imei: str
    message: ShownMessage | None = None
    device: ShownDevice | None = None


class Following:
    """Events of a gateway, one connection after the other, each behind the last event of the one before."""

    def __init__(self, gateway: GatewayClient, query: Query) -> None:
        self._gateway = gateway
        self._query = query
        self._last: str | None = None
        self.was_connected = False  #: whether the gateway ever streamed

    def connect(self) -> Iterator[str]:
        """The data of each event until the connection ends; raises GatewayError."""
        with self._gateway.events(self._query, self._last) as lines:
            self.was_connected = True
            data: str | None = None
            last = self._last
            for line in lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "id":
                    last = value
                elif name == "data":
                    data = value
                elif not line:
                    self._last = last
                    if data is not None:
                        yield data
                    data = None


def events(
    *,
    device: Device = None,
    operation: Operation = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="TYPE", help="`message.failed`, `message.*`, `device.presence`; may be repeated."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From then on: `15m` ago, `2026-11-24T06:30`, Jalali; or an id."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what changes, until Ctrl-C.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what changed: the status of messages, and whether devices are there. Without `--since`: in the last hour.

    With `--follow` it shows what changes from now on, or since the time that is given, and leaves nothing out, also
    where the gateway is away for a while.

    Example: `chapar events --follow`

    Example: `chapar events --since 1d --type message.failed --json`
    """
    language = preferred_language()
    query: dict[str, str | list[str]] = {"type": types or []}
    if device is not None:
        query["imei"] = check_device_id(device, "--device")
    if operation is not None:
        query["micro_op"] = check_operation(operation, "--operation")
    if since is not None or not follow:
        query["since"] = _since(since or "1h")
    show: Show = _print_json if as_json else _printer(language)
    with GatewayClient(url, language) as gateway:
        if not follow:
            for data in Following(gateway, {**query, "follow": "false"}).connect():
                show(data)
            return
        try:
            follow_events(Following(gateway, query), show, language)
        except KeyboardInterrupt:
            return  # the way to end it


def follow_events(
    following: Following, show: Show, language: Language, pause: Callable[[float], None] = time.sleep
) -> None:
    """Show events until interrupted. Raises GatewayError where another connection would help nothing."""
    away = False
    while True:
        try:
            for data in following.connect():
                away = False
                show(data)
        except GatewayError as error:
            if not (error.passing and following.was_connected):
                raise
            if not away:
                typer.echo(f"chapar: {plain(error.sentence(language))}", err=True)
            away = True
        pause(AGAIN_AFTER)


def _since(text: str) -> str:
    """A time as the gateway reads it, or the id of an event as it is."""
    if text.startswith("e") and len(text) > len("e1d"):
        return text
    at = moment("--since", text)
    return str(rfc3339(milliseconds(None if at is None else at.astimezone(UTC))))


def _print_json(data: str) -> None:
    with suppress(ValueError):
        typer.echo(json_line(json.loads(data)))
    check_output()


def _printer(language: Language) -> Show:
    def show(data: str) -> None:
        with suppress(ValidationError):  # of a kind that a newer gateway knows
            typer.echo(_line(ShownEvent.model_validate_json(data), language))
        check_output()

    return show


def _line(event: ShownEvent, language: Language) -> str:
    if event.device is not None:
        cells = [word("presence", event.device.presence.state, language)]
    elif event.message is not None:
        message = event.message
        cells = [word("status", message.status, language), message.micro_op, message.id, note(message, language)]
    else:
        cells = [event.type]
    return "  ".join(plain(cell) for cell in [local_time(event.at, language), event.imei, *cells] if cell)
