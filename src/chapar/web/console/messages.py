"""The list of messages: filters, and page after page of it."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.delivery.reports import Reporting
from chapar.errors import FieldInvalid
from chapar.model.message import UNFINISHED, Message, Status, check_device_id, check_operation
from chapar.model.principal import Scope
from chapar.model.reply import standing
from chapar.model.report import Filters, Format, Page, Position
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.routes import fields_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.chunks import begun
from chapar.web.http.entrance import AdmittedStream, allow, caller_of
from chapar.web.http.problems import status_of

PAGE: Final = 50  # messages

GROUPS: Final[Mapping[str, tuple[Status, ...]]] = {
    "waiting": tuple(sorted(UNFINISHED)),
    "undelivered": (Status.REJECTED, Status.EXPIRED, Status.CANCELLED, Status.UNCONFIRMED),
    "troubled": (Status.FAILED, Status.TIMED_OUT),
}
"""Several states that are asked for together."""

_FILTERS: Final = ("imei", "micro_op", "status", "since", "until", "offset")
_CURSOR: Final = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,18})")


Written = Callable[[AsyncIterator[list[Message]]], AsyncIterator[bytes]]
"""Writes messages as a file."""


def messages_router(site: Site, reporting: Reporting, as_csv: Written) -> APIRouter:
    """The page of messages, and a file of them."""
    router = routes()

    @router.get("/messages")
    @allow(Scope.READ)
    async def messages(request: Request) -> Response:
        """Show messages, newest first."""
        asked = fields_of(request)
        after = _position(asked.get("cursor", ""))
        page, status, problem = Page([], None), 200, None
        try:
            page = await reporting.page(caller_of(request), _filters(asked), after=after, limit=PAGE)
        except FieldInvalid as error:
            status, problem = status_of(error), error.sentence(chosen_language(request))
        return site.page(
            request,
            "messages.html",
            status,
            asked=asked,
            filters={name: value for name, value in asked.items() if name in _FILTERS},
            stream={name: value for name, value in asked.items() if name == "imei"},
            statuses=list(Status),
            groups=list(GROUPS),
            rows=[(message, standing(message)) for message in page.messages],
            next=None if page.next is None else f"{page.next.id}.{page.next.seq}",
            is_first=after is None,
            problem=problem,
        )

    @router.get("/messages.csv")
    @allow(Scope.READ)
    async def export(request: Request) -> Response:
        """Give every message that fits as CSV, oldest first."""
        pages = await begun(reporting.report(caller_of(request), _filters(fields_of(request))))
        name = f"chapar-messages-{datetime.now(UTC):%Y-%m-%d}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return AdmittedStream(as_csv(pages), media_type=Format.CSV.media_type, headers=headers)

    return router


def _filters(asked: Mapping[str, str]) -> Filters:
    """The conditions in the address; raises FieldInvalid."""
    offset = read_offset(asked.get("offset", ""))
    return Filters(
        imei=check_device_id(asked["imei"]) if "imei" in asked else None,
        micro_op=check_operation(asked["micro_op"]) if "micro_op" in asked else None,
        status=_statuses(asked.get("status", "")),
        since=read_moment(asked["since"], "since", offset=offset) if "since" in asked else None,
        until=read_moment(asked["until"], "until", offset=offset, end=True) if "until" in asked else None,
    )


def _statuses(name: str) -> tuple[Status, ...]:
    """The states that a name of the list means; all of them for one that is not in it."""
    return GROUPS.get(name) or ((Status(name),) if name in set(Status) else ())


def _position(cursor: str) -> Position | None:
    found = _CURSOR.fullmatch(cursor)
    return None if found is None else Position(int(found[2]), found[1])
