"""`chapar send`: one operation for one device, through a running gateway."""

import json
from typing import Annotated

import typer
from pydantic import JsonValue

from chapar.cli.client import GatewayClient, Sent
from chapar.cli.options import ACCEPTED, MARGIN, IdempotencyKey, Json, Timeout, Url, WaitFor, moment, seconds
from chapar.cli.sentences import say
from chapar.cli.terminal import progress
from chapar.errors import BodyMalformed, FieldInvalid, GatewayRefused, Language, Phrase, UsageInvalid
from chapar.model.json_text import parse
from chapar.model.lines import json_line, plain
from chapar.model.message import LONGEST_WAIT, Status, Wait
from chapar.runtime.settings import preferred_language


def send(  # noqa: PLR0913 - each is an option of the command
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.", show_default=False)],
    operation: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION", help="What it is to do; the device receives this text.", show_default=False
        ),
    ],
    *,
    params: Annotated[
        str | None, typer.Option(metavar="JSON", help="Parameters, a JSON object; the device then receives JSON.")
    ] = None,
    qos: Annotated[int, typer.Option(min=0, max=2, help="MQTT QoS. 0 is never acknowledged: exit code 3.")] = 1,
    retain: Annotated[bool, typer.Option("--retain", help="Have the broker keep it for later subscribers.")] = False,
    at_most_once: Annotated[
        bool, typer.Option("--at-most-once", help="Never send again where an attempt's outcome is unknown.")
    ] = False,
    expires_in: Annotated[
        str | None,
        typer.Option("--expires-in", metavar="SPAN", help="Not sent any more after that: `90s`, `15m`, `2h`, `7d`."),
    ] = None,
    deliver_at: Annotated[
        str | None,
        typer.Option(
            "--deliver-at", metavar="TIME", help="Not sent before: `15m` from now, `2026-11-24T06:30`, Jalali."
        ),
    ] = None,
    wait: WaitFor = Wait.BROKER,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send an operation to a device, and say what the broker answered.

    Example: `chapar send 861234567890123 push_down`

    Example: `chapar send pump-7 set_flow --params '{"litres": 20}' --timeout 10`

    Example: `chapar send pump-7 open_valve --deliver-at 2h --expires-in 10m`

    Exit code 0: saved, and the broker acknowledged it. 3: saved, not acknowledged yet; the output says where to look.
    1: an error; it says what. 2: the command was not written as it must be.
    """
    language = preferred_language()
    due = moment("--deliver-at", deliver_at, ahead=True)
    request = {
        "imei": device,
        "micro_op": operation,
        "params": None if params is None else _parsed(params),
        "qos": qos,
        "retain": retain,
        "at_most_once": at_most_once,
        "expires_in": seconds("--expires-in", expires_in),
        "deliver_at": None if due is None else due.isoformat(),
        "wait": wait.value,
        "timeout": timeout,
    }
    try:
        with GatewayClient(url, language) as gateway, progress(say("send.waiting", language)):
            sent = gateway.send(request, (timeout or LONGEST_WAIT) + MARGIN, idempotency_key)
    except GatewayRefused as error:
        if as_json:
            typer.echo(json_line(error.body))
        raise
    typer.echo(json_line(sent.body) if as_json else outcome(sent, language, operation))
    if not sent.acknowledged:
        raise typer.Exit(ACCEPTED)


def outcome(sent: Sent, language: Language, operation: str | None = None) -> str:
    """Return for a person what became of the message; without an operation it is an earlier one's, sent again."""
    is_unconfirmed = sent.body.get("status") == Status.UNCONFIRMED
    kind = "unconfirmed" if is_unconfirmed else "sent" if sent.acknowledged else "accepted"
    kinds = [kind if operation is not None else f"{kind}_again"]
    if sent.body.get("subscribers") is False:
        kinds.append("unheard")
    kinds.append("id")
    if not sent.acknowledged:
        kinds.append("location")
    facts = {
        "operation": operation,
        "topic": sent.body.get("topic"),
        "id": sent.body.get("id"),
        "location": sent.location,
    }
    return "\n".join(plain(say(f"send.{kind}", language, **facts)) for kind in kinds)


def _parsed(params: str) -> dict[str, JsonValue]:
    """The parameters as an object; raises UsageInvalid."""
    try:
        value = parse(params.encode(errors="surrogateescape"))
        json.dumps(value, allow_nan=False)
    except (BodyMalformed, ValueError):
        value = None
    except FieldInvalid as error:
        raise UsageInvalid(Phrase("usage.document", file="--params", problem=error)) from None
    if not isinstance(value, dict):
        raise UsageInvalid(Phrase("usage.params"))
    return value
