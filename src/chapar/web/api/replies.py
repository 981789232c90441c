"""Replies of devices: all of one message, and those that belong to none."""

from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, JsonValue, WithJsonSchema

from chapar.delivery.replies import Replying
from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import check_device_id
from chapar.model.principal import Scope
from chapar.model.reply import Listed, Unmatched
from chapar.model.times import rfc3339
from chapar.web.api.messages import MessageId
from chapar.web.api.schemas import DEVICE_ID, MAX_PAGE, ReplyView
from chapar.web.http.chunks import in_chunks, page_of
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow
from chapar.web.http.problems import answers

_JSON: Final = "application/json"
_CURSOR: Final = r"^[0-9]{1,18}$"


class WholeReply(BaseModel):
    """A reply, as it was received."""

    word: str | None = Field(description="The word that decided, as the device wrote it.", examples=["ok"])
    size: int = Field(description="Bytes of the whole payload.", examples=[11])
    sha256: str = Field(description="Of the whole payload.")
    truncated: bool = Field(description="Whether the payload shows its first 64 KiB only, then as text.")
    count: int = Field(description="How often the same was received.", examples=[1])


class ReplyDetail(ReplyView, WholeReply):
    """A reply of a message."""

    stands: bool = Field(description="Whether it is the one that decided: the first final word, else the last one.")


class ReplyList(BaseModel):
    """All replies of a message, in the order in which they came."""

    replies: list[ReplyDetail]


class UnmatchedReply(WholeReply):
    """A reply that belongs to no message."""

    at: str = Field(description="When it came first.", examples=["2026-11-24T06:30:00.420Z"])
    imei: str | None = Field(description="The device; null where the topic names none.", examples=["861234567890123"])
    topic: str = Field(examples=["devices/861234567890123/reply"])
    payload: JsonValue = Field(description="As in a message's `reply`.", examples=["push_down ok"])
    reason: Unmatched = Field(description="Why it belongs to no message.", examples=[Unmatched.AMBIGUOUS])


class UnmatchedPage(BaseModel):
    """One page of replies that belong to no message, newest first."""

    replies: list[UnmatchedReply]
    next: str | None = Field(description="`cursor` of the next page; null on the last one.", examples=[None])


class UnmatchedQuery(BaseModel):
    """Conditions on replies."""

    matched: Annotated[str, WithJsonSchema({"type": "string", "enum": ["false"]})] = Field(
        "false", description="Those that belong to no message; others are shown with theirs."
    )
    imei: Annotated[str | None, WithJsonSchema({"type": "string", **DEVICE_ID})] = Field(
        None, description="Those of this device."
    )
    cursor: Annotated[str | None, WithJsonSchema({"type": "string", "pattern": _CURSOR})] = Field(
        None, pattern=_CURSOR, description="`next` of the page before."
    )
    limit: int = Field(
        100, ge=1, le=MAX_PAGE, description="Replies on a page, at most: it also ends at 256 KiB. Follow `next`."
    )

    def device(self) -> str | None:
        """Return the device that is asked for; raises FieldInvalid."""
        if self.matched.lower() != "false":
            raise FieldInvalid("matched", Phrase("rule.matched_replies"))
        return None if self.imei is None else check_device_id(self.imei)


def replies_router(replying: Replying) -> APIRouter:
    """The routes of replies."""
    router = APIRouter(route_class=GuardedRoute)

    @router.get(
        "/messaging/messages/{id}/replies",
        summary="Show all replies of a message",
        operation_id="list_message_replies",
        tags=["messaging"],
        response_model=ReplyList,
        responses=answers(404, 422, 503),
    )
    @allow(Scope.READ)
    async def of_message(id: MessageId, caller: Calling) -> Response:  # noqa: A002 - the name in the path
        """All that its device said, in the order in which it came: also progress, and what came late or contradicts.

        The newest 100 are kept, and each once, with a `count`.
        """
        listed = await replying.of_message(caller, id)
        written = b'{"replies":[' + b",\n".join(map(_of_message, listed)) + b"]}\n"
        return AdmittedStream(in_chunks([written]), media_type=_JSON)

    @router.get(
        "/replies",
        summary="List replies that belong to no message",
        operation_id="list_unmatched_replies",
        tags=["devices"],
        response_model=UnmatchedPage,
        responses=answers(422, 503),
    )
    @allow(Scope.READ)
    async def unmatched(query: Annotated[UnmatchedQuery, Query()], caller: Calling) -> Response:
        """Replies of devices that answer no message, newest first, each with its `reason`; kept for 7 days.

        Replies whose topic names no device are shown to callers whose reach is not limited.
        """
        before = None if query.cursor is None else int(query.cursor)
        page = await replying.unmatched(caller, query.device(), before=before, limit=query.limit)
        following = None if page.next is None else str(page.next)
        return AdmittedStream(in_chunks(page_of("replies", map(_unmatched, page.replies), following)), media_type=_JSON)

    return router


def _of_message(listed: Listed) -> bytes:
    reply = listed.reply
    return _written(listed, status=reply.status, matched_by=reply.matched_by, late=reply.late, stands=listed.seq == 0)


def _unmatched(listed: Listed) -> bytes:
    return _written(listed, imei=listed.imei or None, topic=listed.topic, reason=listed.reason)


def _written(listed: Listed, **more: object) -> bytes:
    """A reply as JSON; its payload is JSON already."""
    reply = listed.reply
    fields: dict[str, object] = {
        "at": rfc3339(reply.at),
        **more,
        "word": reply.word or None,
        "size": reply.size,
        "sha256": reply.sha256,
        "truncated": reply.truncated,
        "count": reply.times,
        "payload": orjson.Fragment(reply.payload),
    }
    return orjson.dumps(fields)
