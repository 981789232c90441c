"""`/audit`: who did what, from where, when."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, WithJsonSchema
from pydantic.config import JsonDict

from chapar.access.trail import AuditTrail
from chapar.model.audit import Action, AuditFilters, Entry, check_filter
from chapar.model.message import check_device_id
from chapar.model.principal import Scope
from chapar.model.times import milliseconds, rfc3339
from chapar.web.api.schemas import DEVICE_ID, FORBIDDEN, MAX_PAGE, Moment
from chapar.web.http.chunks import in_chunks, page_of
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow
from chapar.web.http.problems import answers

_EXAMPLE_ID: Final = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"
_JSON: Final = "application/json"

_LAST: Final = 2**63 - 1  # place in the trail
_TEXT: Final[JsonDict] = {"type": "string", "pattern": f"^[^{FORBIDDEN}]*$"}


class AuditQuery(BaseModel):
    """Conditions on entries; what is absent does not narrow."""

    principal: Annotated[str | None, WithJsonSchema({**_TEXT, "maxLength": 300})] = Field(
        None, description="What this principal did: `key:…`, `jwt:…`.", max_length=300
    )
    action: Annotated[Action | None, WithJsonSchema({"type": "string", "enum": list(Action)})] = Field(
        None, description="This kind of deed only."
    )
    imei: Annotated[str | None, WithJsonSchema({"type": "string", **DEVICE_ID})] = Field(
        None, description="What was done to this device."
    )
    subject: Annotated[str | None, WithJsonSchema({**_TEXT, "maxLength": 64})] = Field(
        None, description="What was done to this message or key.", max_length=64
    )
    since: Moment = Field(None, description="At this time or later (RFC 3339).")
    until: Moment = Field(None, description="Before this time (RFC 3339).")
    cursor: Annotated[int | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _LAST})] = Field(
        None, ge=1, le=_LAST, description="`next` of the page before."
    )
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Entries on a page, at most: follow `next`.")

    def filters(self) -> AuditFilters:
        """Return them as the gateway takes them; raises FieldInvalid."""
        return AuditFilters(
            principal=check_filter(self.principal, "principal"),
            action=self.action,
            imei=None if self.imei is None else check_device_id(self.imei),
            subject=check_filter(self.subject, "subject"),
            since=milliseconds(self.since),
            until=milliseconds(self.until),
        )


class EntryView(BaseModel):
    """One thing that was done."""

    number: int = Field(description="In the order of writing.", examples=[1])
    at: str = Field(examples=["2026-11-24T06:30:00.000Z"])
    principal: str = Field(
        description="Who did it; empty for anybody while access is open.", examples=["key:k3x9q2m7aa"]
    )
    name: str = Field(description="The principal's name then.", examples=["irrigation backend"])
    address: str = Field(description="Where it was asked from.", examples=["192.0.2.7"])
    action: str = Field(examples=[Action.SENT.value])
    subject: str = Field(description="The message's or the key's id.", examples=[_EXAMPLE_ID])
    imei: str | None = Field(examples=["861234567890123"])
    micro_op: str | None = Field(examples=["push_down"])
    detail: str | None = Field(examples=[None])


class AuditPage(BaseModel):
    """One page of the audit trail, newest first."""

    entries: list[EntryView]
    next: int | None = Field(description="`cursor` of the next page; null on the last one.", examples=[1])


def audit_router(trail: AuditTrail) -> APIRouter:
    """The route of `/audit`."""
    router = APIRouter(tags=["access"], route_class=GuardedRoute)

    @router.get(
        "/audit",
        summary="Who did what, newest first",
        operation_id="list_audit_entries",
        response_model=AuditPage,
        responses=answers(422, 503),
    )
    @allow(Scope.AUDIT)
    async def audit(query: Annotated[AuditQuery, Query()], caller: Calling) -> Response:
        """A page of the audit trail. Nothing can change it, and retention does not reach it.

        A page ends before its `limit` where its texts are long: follow `next`.
        """
        page = await trail.page(caller, query.filters(), before=query.cursor, limit=query.limit)
        entries = (entry_view(number, entry).model_dump_json().encode() for number, entry in page.entries)
        return AdmittedStream(in_chunks(page_of("entries", entries, page.next)), media_type=_JSON)

    return router


def entry_view(number: int, entry: Entry) -> EntryView:
    """An entry as JSON."""
    return EntryView(**entry._asdict() | {"number": number, "at": str(rfc3339(entry.at))})
