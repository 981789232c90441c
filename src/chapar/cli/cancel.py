"""`chapar cancel`: withdraw a message."""

import typer

from chapar.cli.client import GatewayClient
from chapar.cli.options import ACCEPTED, Json, MessageId, Url
from chapar.cli.sentences import say
from chapar.model.lines import json_line, plain
from chapar.runtime.settings import preferred_language


def cancel(message_id: MessageId, *, url: Url = None, as_json: Json = False) -> None:
    """Withdraw a message that waits. It is either withdrawn or goes out, never both.

    One that the broker retains is taken back. Exit code 3: the broker has not forgotten it yet.

    Example: `chapar cancel 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        cancelled = gateway.cancel(message_id)
    if as_json:
        typer.echo(json_line(cancelled.message))
    else:
        message_id = str(cancelled.message.get("id"))
        typer.echo(plain(say("cancel.done" if cancelled.done else "cancel.clearing", language, id=message_id)))
    if not cancelled.done:
        raise typer.Exit(ACCEPTED)
