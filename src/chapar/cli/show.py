"""`chapar show`: all that is known of one message."""

import typer

from chapar.cli.client import GatewayClient
from chapar.cli.options import Json, MessageId, Url
from chapar.cli.table import print_message
from chapar.cli.terminal import check_output
from chapar.model.lines import json_line
from chapar.runtime.settings import preferred_language


def show(message_id: MessageId, *, url: Url = None, as_json: Json = False) -> None:
    """Show one message: where it stands and why, its times, its parameters and its attempts.

    Example: `chapar show 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        message = gateway.find(message_id)
    if as_json:
        typer.echo(json_line(message.model_dump(mode="json", exclude_unset=True)))
    else:
        print_message(message, language)
    check_output()
