"""`chapar messages`: what was sent, as a table or as JSON, once or for as long as one likes."""

import time
from collections.abc import Callable, Iterable
from typing import Annotated, Final

import typer

from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.follow import Follower
from chapar.cli.options import Device, Filters, Json, Operation, Since, Statuses, Until, Url, filters_of
from chapar.cli.sentences import say
from chapar.cli.table import MessageTable
from chapar.cli.terminal import check_output, progress
from chapar.errors import GatewayError, Language, Phrase, UsageInvalid
from chapar.model.lines import json_line, plain
from chapar.runtime.settings import preferred_language

REFRESH_EVERY: Final = 1.0  # seconds
MOST_LISTED: Final = 10_000  # messages; all of them is what `GET /reporting/all` is for

Printer = Callable[[Iterable[ShownMessage]], None]


def messages(  # noqa: PLR0913 - each is an option of the command
    *,
    device: Device = None,
    operation: Operation = None,
    status: Statuses = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="The newest so many.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with new messages and changes of state, until Ctrl-C.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what was sent, the newest last. On a narrow terminal each id stands below its row.

    Example: `chapar messages --device 861234567890123 --since 15m`

    Example: `chapar messages --status rejected --status unconfirmed --json`

    Example: `chapar messages --follow`
    """
    language = preferred_language()
    filters = filters_of(device, operation, status, since, until)
    if follow and until is not None:
        raise UsageInvalid(Phrase("usage.follow_until"))
    with GatewayClient(url, language) as gateway:
        if follow:
            try:
                follow_messages(gateway, filters, limit, _printer(as_json, language), language)
            except KeyboardInterrupt:
                return  # the way to end it
        else:
            with progress(say("messages.reading", language)):
                found = gateway.messages(filters, limit)
            _printer(as_json, language)(reversed(found))
            check_output()


def follow_messages(
    gateway: GatewayClient,
    filters: Filters,
    limit: int,
    show: Printer,
    language: Language,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show the newest messages, then what is new or changes, until interrupted.

    Raises GatewayError where the gateway is not there at the start, or says that it will never do what was asked.
    """
    follower = Follower(gateway, filters)
    with progress(say("messages.reading", language)):
        follower.begin()
        newest = gateway.messages(filters, limit)
    follower.know(newest)
    show(reversed(newest))
    check_output()
    away = False
    while True:
        pause(REFRESH_EVERY)
        try:
            changes = follower.refresh()
        except GatewayError as error:
            if not error.passing:
                raise
            if not away:
                typer.echo(f"chapar: {plain(error.sentence(language))}", err=True)
            away = True
            continue
        away = False
        if changes.missed:
            typer.echo(f"chapar: {say('messages.missed', language)}", err=True)
        show(message for message in changes.changed if not filters.status or message.status in filters.status)
        check_output()


def _printer(as_json: bool, language: Language) -> Printer:  # noqa: FBT001 - it is the option's value
    """Return a printer of messages: headings once, and nothing where there is nothing."""
    if as_json:
        return _print_json
    table = MessageTable(language)
    headings = True

    def show(messages: Iterable[ShownMessage]) -> None:
        nonlocal headings
        table.print(list(messages), headings=headings)
        headings = False

    return show


def _print_json(messages: Iterable[ShownMessage]) -> None:
    for message in messages:
        typer.echo(json_line(message.model_dump(mode="json")))
