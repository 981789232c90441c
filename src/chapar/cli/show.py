"""`chapar show`: all that is known of one message."""

from typing import Annotated, Final

import typer

from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.options import MARGIN, Json, MessageId, Timeout, Url, exit_code
from chapar.cli.sentences import say
from chapar.cli.table import print_message
from chapar.cli.terminal import check_output, progress
from chapar.model.lines import json_line
from chapar.model.message import ANSWERED, LONGEST_WAIT, Status, Wait
from chapar.runtime.settings import preferred_language

_WITHOUT_AN_ANSWER: Final = frozenset({Status.REJECTED, Status.EXPIRED, Status.CANCELLED})


def show(
    message_id: MessageId,
    *,
    wait: Annotated[
        Wait, typer.Option("--wait", help="`broker`, `device`: show it once that has answered, or time is up.")
    ] = Wait.NONE,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show one message: where it stands and why, its times, its parameters, its reply and its attempts.

    Example: `chapar show 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`

    Example: `chapar show 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55 --wait device --timeout 60`

    With `--wait` the exit codes are those of `send`, and 1 where it ended without an answer.
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        if wait is Wait.NONE:
            message = gateway.find(message_id)
        else:
            query = {"wait": wait.value} | ({} if timeout is None else {"timeout": str(timeout)})
            with progress(say(f"send.waiting_{wait}", language)):
                message = gateway.find(message_id, query, (timeout or LONGEST_WAIT) + MARGIN)
    if as_json:
        typer.echo(json_line(message.model_dump(mode="json", exclude_unset=True)))
    else:
        print_message(message, language)
    check_output()
    if wait is not Wait.NONE and (code := _exit_code(message, wait)):
        raise typer.Exit(code)


def _exit_code(message: ShownMessage, wait: Wait) -> int:
    if message.status in _WITHOUT_AN_ANSWER:
        return 1
    done = {Status.SUCCEEDED} if wait is Wait.DEVICE else {Status.PUBLISHED, Status.TIMED_OUT} | ANSWERED
    return exit_code(message.status, is_done=message.status in done)
