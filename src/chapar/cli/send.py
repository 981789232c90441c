"""`chapar send`: one operation for one device, through a running gateway."""

import json
from typing import Annotated, Final

import typer
from pydantic import JsonValue

from chapar.cli.client import GatewayClient, Sent, reply_in
from chapar.cli.options import MARGIN, IdempotencyKey, Json, Timeout, Url, WaitFor, exit_code, moment, seconds
from chapar.cli.sentences import say
from chapar.cli.table import reply_words
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
    reply_within: Annotated[
        str | None,
        typer.Option(
            "--reply-within", metavar="SPAN", help="The device is to reply within that: `30s`, `5m`. Later: timed_out."
        ),
    ] = None,
    only_if_online: Annotated[
        bool, typer.Option("--only-if-online", help="Only where the device is known to be online now.")
    ] = False,
    on_contact: Annotated[
        bool, typer.Option("--on-contact", help="Let it wait until the device speaks, and leave right then.")
    ] = False,
    collapse_key: Annotated[
        str | None,
        typer.Option("--collapse-key", metavar="TEXT", help="Take the place of what waits with the same key."),
    ] = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="Leave before all that waits.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Withdraw all that waits for the device.")] = False,
    wait: WaitFor = Wait.BROKER,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send an operation to a device, and say what the broker or the device answered.

    Example: `chapar send 861234567890123 push_down`

    Example: `chapar send pump-7 set_flow --params '{"litres": 20}' --timeout 10`

    Example: `chapar send pump-7 open_valve --deliver-at 2h --expires-in 10m`

    Example: `chapar send pump-7 push_down --wait device --reply-within 20s`

    Exit code 0: saved, and the broker acknowledged it; with `--wait device` the device reported success. 4: the device
    reported failure. 3: saved, and not answered yet; the output says where to look. 1: an error; it says what. 2: the
    command was not written as it must be.
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
        "reply_within": seconds("--reply-within", reply_within),
        "only_if_online": only_if_online,
        "deliver": "on_contact" if on_contact else "now",
        "collapse_key": collapse_key,
        "urgent": urgent,
        "purge": purge,
        "wait": wait.value,
        "timeout": timeout,
    }
    try:
        with GatewayClient(url, language) as gateway, progress(say(f"send.waiting_{wait}", language)):
            sent = gateway.send(request, (timeout or LONGEST_WAIT) + MARGIN, idempotency_key)
    except GatewayRefused as error:
        if as_json:
            typer.echo(json_line(error.body))
        raise
    typer.echo(json_line(sent.body) if as_json else outcome(sent, language, operation))
    if code := exit_code(sent.body.get("status"), is_done=sent.acknowledged):
        raise typer.Exit(code)


def outcome(sent: Sent, language: Language, operation: str | None = None) -> str:
    """Return for a person what became of the message; without an operation it is an earlier one's, sent again."""
    status = sent.body.get("status")
    kind = _KINDS.get(status, "accepted") if isinstance(status, str) and not sent.acknowledged else "sent"
    kinds = [kind if operation is not None else f"{kind}_again"]
    if sent.body.get("subscribers") is False:
        kinds.append("unheard")
    if (reply := reply_in(sent.body)) is not None:
        kinds.append("reply")
    kinds.append("id")
    if not sent.acknowledged:
        kinds.append("location")
    facts = {
        "operation": operation,
        "topic": sent.body.get("topic"),
        "id": sent.body.get("id"),
        "location": sent.location,
        "reply": None if reply is None else reply_words(reply, language),
    }
    return "\n".join(plain(say(f"send.{kind}", language, **facts)) for kind in kinds)


_KINDS: Final = {
    Status.UNCONFIRMED.value: "unconfirmed",
    Status.PUBLISHED.value: "unanswered",
    Status.ACKNOWLEDGED.value: "unanswered",
    Status.TIMED_OUT.value: "unanswered",
}
"""What is said of a message that is not answered yet, where it is more than that it is accepted."""


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
