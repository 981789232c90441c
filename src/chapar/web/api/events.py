"""`/events`: what changes, as it changes (server-sent events, WHATWG HTML §9.2)."""

import asyncio
from collections.abc import Iterable
from typing import Final, Literal

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from chapar.errors import EventsGone, FieldInvalid, ListenersExhausted, Phrase, ScopeMissing, StoreUnavailable
from chapar.events.batches import Batch
from chapar.events.cursors import LONGEST, cursor_of, is_cursor, place_of
from chapar.events.feed import Feed
from chapar.events.wanted import ALL, Wanted
from chapar.model.event import PRESENCE, TYPES, Event, Position
from chapar.model.message import check_device_id, check_operation
from chapar.model.principal import Caller, Scope
from chapar.model.times import milliseconds, rfc3339
from chapar.web.api.devices import PresenceView
from chapar.web.api.schemas import DEVICE_ID, MessageView, Moment, message_fields
from chapar.web.http.admissions import Admissions
from chapar.web.http.direct import HEAD_ONLY
from chapar.web.http.entrance import GuardedRoute, Identity, RequestRoute, allow, caller_of
from chapar.web.http.exchange import CUT
from chapar.web.http.headers import header
from chapar.web.http.problems import answers, invalid_query, problem_response
from chapar.web.http.query import check_query

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HEARTBEAT: Final = 15.0  # seconds without anything else after which a comment says that the stream is there
SEND_TIMEOUT: Final = 10.0  # seconds in which a listener has to take the next piece

_MEDIA_TYPE: Final = "text/event-stream"
_LAST_EVENT_ID: Final = "Last-Event-ID"
_PARAMETERS: Final = {"imei": True, "micro_op": True, "type": True, "since": False, "follow": False}
_MOST: Final = 100  # values of one filter
_FAMILIES: Final = {"message.*": [type_ for type_ in TYPES if type_ != PRESENCE], "device.*": [PRESENCE]}
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back until it has enough of them
]


class DeviceEvent(BaseModel):
    """The device that an event is about."""

    imei: str = Field(examples=["861234567890123"])
    presence: PresenceView


class EventData(BaseModel):
    """The `data` of an event: one change of a message or of a device's presence."""

    id: str = Field(description="The cursor behind the event, to go on from.", examples=["ewBY3wyfDE3NjQ"])
    type: Literal[TYPES] = Field(examples=["message.published"])  # type: ignore[valid-type]
    at: str = Field(description="When it happened.", examples=["2026-11-24T06:30:00.004Z"])
    imei: str = Field(examples=["861234567890123"])
    message: MessageView | None = Field(
        None, description="With `message.…`: the message, with the status, reason and attempts that the event made."
    )
    device: DeviceEvent | None = Field(None, description="With `device.presence`.")


class _Since(BaseModel):
    since: Moment


class _Follow(BaseModel):
    follow: bool = True


class _Cut(Exception):
    """The stream ends for a reason that its listener is to know."""

    def __init__(self, why: str, sentence: str) -> None:
        super().__init__(sentence)
        self.why = why


_SLOW: Final = f"nothing was taken for {SEND_TIMEOUT:g} s. Connect again with Last-Event-ID; it goes on there."
_STOPPING: Final = "the gateway stops. Connect again with Last-Event-ID; it goes on there."
_GONE: Final = "what followed is not kept any more. Connect again from {oldest} on."


_STREAM: Final[dict[int | str, dict[str, object]]] = {
    200: {
        "description": "Events, each with an `EventData` as its `data`.",
        "content": {_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/EventData"}}},
    }
}


def events_router(feed: Feed) -> APIRouter:
    """The route of `/events`."""
    router = APIRouter(tags=["events"], route_class=GuardedRoute)
    admissions = Admissions()

    @allow(Identity.KNOWN)
    async def events(request: Request) -> Response:
        """Follow every change of a message's status and of a device's presence, each once and in one order.

        What the caller may not see is left out: events of messages need `messages:read`, those of devices
        `devices:read`, and the key's devices and operations hold for each.

        With `Last-Event-ID`, which browsers send by themselves, or `since`, the stream goes on behind that event and
        leaves nothing out, also at another process. A comment comes at least every 15 s, with an `id` of its own. A
        listener who takes nothing for 10 s is cut off with a last comment, and goes on where it was.
        """
        check_query(request, _PARAMETERS)
        wanted = _wanted(request, caller_of(request))
        place = await feed.begin(*_start(request))
        return EventStream(feed, admissions, wanted, place, until=None if _follows(request) else await feed.now())

    router.add_api_route(
        "/events",
        events,
        methods=["GET"],
        summary="Follow what changes",
        operation_id="follow_events",
        status_code=200,
        response_class=EventStream,
        responses=_STREAM | answers(403, 410, 422, 503),
        openapi_extra={"parameters": _SHOWN},
        route_class_override=RequestRoute,
    )
    return router


def _list(name: str, description: str, items: JsonDict) -> dict[str, object]:
    schema = {"type": "array", "maxItems": _MOST, "items": {"type": "string", **items}}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_SHOWN: Final = [
    _list("imei", "These devices only; may be repeated.", DEVICE_ID),
    _list("micro_op", "These operations only; may be repeated.", {"minLength": 1}),
    _list(
        "type",
        "These types only, as `message.failed`, `message.*` or `device.presence`; may be repeated.",
        {"enum": [*TYPES, *_FAMILIES]},
    ),
    {
        "name": "since",
        "in": "query",
        "required": False,
        "description": "Where to begin: the `id` of an event, or a time (RFC 3339). Without it: now.",
        "schema": {"type": "string", "maxLength": LONGEST},
    },
    {
        "name": "follow",
        "in": "query",
        "required": False,
        "description": "Whether to go on with what comes; `false` ends the answer with what there is.",
        "schema": {"type": "boolean", "default": True},
    },
    {
        "name": _LAST_EVENT_ID,
        "in": "header",
        "required": False,
        "description": "The `id` of the last event that was received. It goes before `since`.",
        "schema": {"type": "string", "maxLength": LONGEST},
    },
]


def _wanted(request: Request, caller: Caller) -> Wanted:
    """The events that a listener is to receive; raises FieldInvalid, ScopeMissing."""
    devices = [check_device_id(imei) for imei in _values(request, "imei")]
    operations = [check_operation(operation) for operation in _values(request, "micro_op")]
    types = [type_ for text in _values(request, "type") for type_ in _types_of(text)]
    scopes = caller.principal.scopes
    about_messages = not types or any(type_ != PRESENCE for type_ in types)
    about_devices = not types or PRESENCE in types
    if not ((about_messages and Scope.READ in scopes) or (about_devices and Scope.DEVICES_READ in scopes)):
        raise ScopeMissing((Scope.READ if about_messages else Scope.DEVICES_READ).value)
    return Wanted(caller.principal, *(frozenset(values) if values else ALL for values in (devices, operations, types)))


def _values(request: Request, name: str) -> list[str]:
    values = request.query_params.getlist(name)
    if len(values) > _MOST:
        raise FieldInvalid(name, Phrase("rule.too_many", limit=_MOST))
    return values


def _types_of(text: str) -> Iterable[str]:
    if text in TYPES:
        return [text]
    if text not in _FAMILIES:
        raise FieldInvalid("type", Phrase("rule.event_type"))
    return _FAMILIES[text]


def _start(request: Request) -> tuple[Position | None, int | None]:
    """A cursor or a time (ms since the epoch) at which the stream is to begin; raises RequestError."""
    last = header(request, _LAST_EVENT_ID.lower().encode())
    if last:
        return place_of(last, _LAST_EVENT_ID), None
    since = request.query_params.get("since")
    if since is None:
        return None, None
    if is_cursor(since):
        return place_of(since, "since"), None
    try:
        return None, milliseconds(_Since.model_validate_strings({"since": since}).since)
    except ValidationError as error:
        raise invalid_query(error) from None


def _follows(request: Request) -> bool:
    asked = request.query_params.get("follow")
    try:
        return _Follow.model_validate_strings({} if asked is None else {"follow": asked}).follow
    except ValidationError as error:
        raise invalid_query(error) from None


class EventStream(Response):
    """The answer that goes on for as long as its listener takes it, and may."""

    media_type = None  # the document says it with the shape of an event

    def __init__(
        self, feed: Feed, admissions: Admissions, wanted: Wanted, place: Position, *, until: Position | None = None
    ) -> None:
        """`until`: the place at which it ends; None: it does not."""
        super().__init__()
        self._until = until
        self._feed = feed
        self._admissions = admissions
        self._wanted = wanted
        self._place = place
        self._beat_at = 0.0  # loop time

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Stream events until the listener hangs up, or is cut off with a last comment."""
        if HEAD_ONLY in scope:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body"})
            return
        try:
            with self._feed.listening(self._wanted):
                await self._while_connected(scope, receive, send)
        except ListenersExhausted as error:
            await problem_response(Request(scope), error)(scope, receive, send)

    async def _while_connected(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        ending = _Ending()
        left = asyncio.ensure_future(_hang_up(receive))
        left.add_done_callback(lambda _: ending.end(None))
        try:
            with self._admissions.watch(scope, lambda why: ending.end(_Cut("credential", why))):
                await self._stream(send)
        except asyncio.CancelledError:
            if not ending.is_asked:
                raise
            ending.take_back()
            if ending.cut is not None:
                await self._cut(ending.cut, scope, send)
        except _Cut as cut:
            await self._cut(cut, scope, send)
        finally:
            ending.is_asked = True
            left.cancel()

    async def _cut(self, cut: _Cut, scope: ASGIScope, send: Send) -> None:
        log.info("listener_cut", caller=scope["caller"].principal.id, why=cut.why)
        self._feed.cut(cut.why)
        await send({"type": CUT, "body": f": cut: {cut}\n\n".encode()})

    async def _stream(self, send: Send) -> None:
        """Write events; raises _Cut."""
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._beat(send)
        while not self._is_over:
            try:
                async with asyncio.timeout_at(self._beat_at):
                    batch = await self._next()
            except TimeoutError:
                await self._beat(send)
                continue
            except EventsGone as gone:
                raise _Cut("gone", _GONE.format(oldest=gone.oldest)) from None
            if batch is None:
                raise _Cut("stopping", _STOPPING)
            for piece in batch.pieces(self._wanted, event_bytes):
                await self._write(send, piece)
            self._place = batch.end
            if loop.time() >= self._beat_at:
                await self._beat(send)
            await asyncio.sleep(0)  # others have their turn
        await send({"type": "http.response.body"})

    @property
    def _is_over(self) -> bool:
        place, until = self._place, self._until
        return until is not None and place.is_at_end and place.order >= until.order

    async def _next(self) -> Batch | None:
        if self._until is None:
            return await self._feed.following(self._place, self._wanted)
        try:
            return await self._feed.past(self._place, self._until, self._wanted)
        except StoreUnavailable as error:
            raise _Cut("unavailable", str(error)) from None

    async def _beat(self, send: Send) -> None:
        """Write a comment, and where the stream has come to: events that are not wanted move it on, too."""
        await self._write(send, b": chapar\nid: %b\n\n" % cursor_of(self._place).encode())

    async def _write(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise _Cut("slow", _SLOW) from None
        self._beat_at = asyncio.get_running_loop().time() + HEARTBEAT


class _Ending:
    """Ends the task that made it from outside, once."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.is_asked = False
        self.cut: _Cut | None = None

    def end(self, cut: _Cut | None) -> None:
        """Cancel the task; `cut` is what its listener is to read."""
        if not self.is_asked and self._task is not None:
            self.is_asked, self.cut = True, cut
            self._task.cancel()

    def take_back(self) -> None:
        """The task goes on to its end."""
        if self._task is not None:
            self._task.uncancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event_bytes(event: Event) -> bytes:
    """An event as it is sent."""
    cursor = cursor_of(event.position)
    data = {"id": cursor, "type": event.type, "at": rfc3339(event.at), "imei": event.imei, **_about(event)}
    # Parameters and replies are JSON as it came. Between its parts a line may end, which would end the field.
    line = orjson.dumps(data).replace(b"\n", b" ").replace(b"\r", b" ")
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), event.type.encode(), line)


def _about(event: Event) -> dict[str, object]:
    if event.message is not None:
        return {"message": message_fields(event.message)}
    if event.state is not None:
        presence = {
            "state": event.state.value,
            "since": rfc3339(event.since),
            "evidence": event.evidence,
            "stale": False,
        }
        return {"device": {"imei": event.imei, "presence": presence}}
    known = {
        "id": event.id,
        "imei": event.imei,
        "status": event.status,
        "reason": event.reason,
        "attempts": event.attempts,
    }
    return {"message": known}
