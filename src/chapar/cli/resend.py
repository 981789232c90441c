"""`chapar resend`: the same operation again, as a new message."""

import typer

from chapar.cli.client import GatewayClient
from chapar.cli.options import MARGIN, IdempotencyKey, Json, MessageId, Timeout, Url, WaitFor, exit_code
from chapar.cli.send import outcome
from chapar.cli.sentences import say
from chapar.cli.terminal import progress
from chapar.model.lines import json_line
from chapar.model.message import LONGEST_WAIT, Wait
from chapar.runtime.settings import preferred_language


def resend(
    message_id: MessageId,
    *,
    wait: WaitFor = Wait.BROKER,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send the operation of a message again, to the same device; it is a new message. Exit codes as of `send`.

    Example: `chapar resend 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`
    """
    language = preferred_language()
    query = {"wait": wait.value} | ({} if timeout is None else {"timeout": str(timeout)})
    with GatewayClient(url, language) as gateway, progress(say(f"send.waiting_{wait}", language)):
        sent = gateway.resend(message_id, query, (timeout or LONGEST_WAIT) + MARGIN, idempotency_key)
    typer.echo(json_line(sent.body) if as_json else outcome(sent, language))
    if code := exit_code(sent.body.get("status"), is_done=sent.acknowledged):
        raise typer.Exit(code)
