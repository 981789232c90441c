"""`chapar replies`: what devices replied."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final
from urllib.parse import quote

import typer
from pydantic import BaseModel, ConfigDict, JsonValue

from chapar.cli.client import PAGE, GatewayClient, Moment
from chapar.cli.options import Device, Json, Url
from chapar.cli.sentences import say, word
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, local_time, progress
from chapar.errors import Language, Phrase, UsageInvalid, persian_digits
from chapar.model.lines import json_line
from chapar.model.message import check_device_id
from chapar.runtime.settings import preferred_language

_MOST: Final = 10_000  # replies; no more are kept
_LONGEST: Final = 200  # characters of a reply in a table
_OF_MESSAGE: Final = ("received", "status", "matched_by", "count", "reply")
_UNMATCHED: Final = ("received", "device", "unmatched", "count", "reply")


class ShownReply(BaseModel):
    """A reply as the gateway shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    at: Moment
    payload: JsonValue
    count: int = 1
    late: bool = False
    status: str | None = None  # of one that belongs to a message
    matched_by: str | None = None
    stands: bool = False
    imei: str | None = None  # of one that belongs to none
    reason: str | None = None


class ReplyPage(BaseModel):
    """Some replies, likewise."""

    replies: list[ShownReply]
    next: str | None = None


def replies(
    message_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The message; without it, what belongs to no message.")
    ] = None,
    *,
    device: Device = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="The newest so many that belong to no message.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what a device replied to a message, or the replies that belong to no message, the newest last.

    Example: `chapar replies 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`

    Example: `chapar replies --device 861234567890123`
    """
    language = preferred_language()
    if message_id is not None and device is not None:
        raise UsageInvalid(Phrase("usage.replies_of_message"))
    with GatewayClient(url, language) as gateway, progress(say("replies.reading", language)):
        if message_id is not None:
            found = gateway.ask(ReplyPage, "GET", f"/messaging/messages/{quote(message_id, safe='')}/replies").replies
        else:
            found = _unmatched(gateway, device, limit)[::-1]
    if as_json:
        for reply in found:
            typer.echo(json_line(reply.model_dump(mode="json", exclude_unset=True)))
    elif not found:
        typer.echo(say("replies.none", language), err=True)
    elif message_id is not None:
        print_table(_OF_MESSAGE, [_row(reply, language) for reply in found], language)
    else:
        print_table(_UNMATCHED, [_unmatched_row(reply, language) for reply in found], language)
    check_output()


def _unmatched(gateway: GatewayClient, device: str | None, limit: int) -> list[ShownReply]:
    found: list[ShownReply] = []
    cursor: str | None = None
    query: Mapping[str, str] = {"matched": "false"} | (
        {} if device is None else {"imei": check_device_id(device, "--device")}
    )
    while len(found) < limit:
        paging = {"limit": str(min(limit - len(found), PAGE))} | ({} if cursor is None else {"cursor": cursor})
        page = gateway.ask(ReplyPage, "GET", "/replies", query={**query, **paging})
        found += page.replies
        cursor = page.next
        if cursor is None:
            break
    return found


def _row(reply: ShownReply, language: Language) -> Sequence[str]:
    status = "" if reply.status is None else word("status", reply.status, language)
    return (
        local_time(reply.at, language),
        say("replies.late", language, status=status) if reply.late else status,
        "" if reply.matched_by is None else word("matched", reply.matched_by, language),
        _number(reply.count, language),
        _text(reply.payload),
    )


def _unmatched_row(reply: ShownReply, language: Language) -> Sequence[str]:
    return (
        local_time(reply.at, language),
        reply.imei or "",
        "" if reply.reason is None else word("unmatched", reply.reason, language),
        _number(reply.count, language),
        _text(reply.payload),
    )


def _text(payload: JsonValue) -> str:
    """A payload on one line, cut where it is long: text as it is, all else as JSON."""
    text = payload if isinstance(payload, str) else json_line(payload)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _number(number: int, language: Language) -> str:
    return persian_digits(str(number)) if language == "fa" else str(number)
