"""The audit trail: who did what, from where, when."""

import re
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.access.trail import AuditTrail
from chapar.errors import FieldInvalid
from chapar.model.audit import Action, AuditFilters, AuditPage, check_filter
from chapar.model.message import check_device_id
from chapar.model.principal import Scope
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.routes import fields_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of

PAGE: Final = 50  # entries

_CURSOR: Final = re.compile(r"[1-9][0-9]{0,17}")


def audit_router(site: Site, trail: AuditTrail) -> APIRouter:
    """The page of the audit trail."""
    router = routes()

    @router.get("/audit")
    @allow(Scope.AUDIT)
    async def audit(request: Request) -> Response:
        """Show entries, newest first."""
        asked = fields_of(request)
        before = _position(asked.get("cursor", ""))
        page, status, problem = AuditPage([], None), 200, None
        try:
            page = await trail.page(caller_of(request), _filters(asked), before=before, limit=PAGE)
        except FieldInvalid as error:
            status, problem = status_of(error), error.sentence(chosen_language(request))
        return site.page(
            request,
            "audit.html",
            status,
            asked=asked,
            actions=list(Action),
            entries=[entry for _, entry in page.entries],
            next=None if page.next is None else str(page.next),
            is_first=before is None,
            problem=problem,
        )

    return router


def _filters(asked: Mapping[str, str]) -> AuditFilters:
    """The conditions in the address; raises FieldInvalid."""
    offset = read_offset(asked.get("offset", ""))
    action = asked.get("action", "")
    return AuditFilters(
        principal=check_filter(asked.get("principal"), "principal"),
        action=Action(action) if action in set(Action) else None,
        imei=check_device_id(asked["imei"]) if "imei" in asked else None,
        subject=check_filter(asked.get("subject"), "subject"),
        since=read_moment(asked["since"], "since", offset=offset) if "since" in asked else None,
        until=read_moment(asked["until"], "until", offset=offset, end=True) if "until" in asked else None,
    )


def _position(cursor: str) -> int | None:
    return int(cursor) if _CURSOR.fullmatch(cursor) else None
