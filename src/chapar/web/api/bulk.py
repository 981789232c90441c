"""`/messaging/bulk`: many messages in one call, an answer for each."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from chapar.delivery.idempotency import Use
from chapar.delivery.messages import Messaging
from chapar.errors import BodyTooLarge, ChaparError, FieldInvalid, Phrase
from chapar.model.json_text import check_grammar
from chapar.model.message import Command, Wait
from chapar.model.principal import Scope
from chapar.web.api.idempotency import KEY_PARAMETER, RequestKey, key_of
from chapar.web.api.items import Steps, in_lines, in_list
from chapar.web.api.rows import Columns, in_rows
from chapar.web.api.sending import Answer, read_command, refusal, send_all
from chapar.web.http.body import read_body
from chapar.web.http.chunks import in_chunks
from chapar.web.http.entrance import RequestRoute, allow, caller_of
from chapar.web.http.headers import ASYNC, PREFER_PARAMETER, prefers_async, without_waiting
from chapar.web.http.problems import answers, language_of
from chapar.web.http.rates import MAX_MESSAGES, MESSAGE_SIZE, BodyShare, Limits
from chapar.web.http.turns import Turns, Work

_Request = tuple[Command, Use | None]
"""What one message of the call asks for, and how it uses the call's key."""

_AT_A_TIME: Final = 200  # messages read in one turn of the event loop, which other callers share
_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_CSV: Final = "text/csv"


class BulkItem(BaseModel):
    """The outcome of one message: the status and the body that `/messaging/send` would have answered."""

    status: int = Field(examples=[201])
    body: dict[str, object]


class BulkAnswer(BaseModel):
    """An answer for each message, in the order of the request."""

    summary: dict[str, int] = Field(description="Messages by status.", examples=[{"201": 998, "422": 2}])
    answers: list[BulkItem]


def bulk_router(messaging: Messaging, limits: Limits) -> APIRouter:
    """The route of `/messaging/bulk`."""
    router = APIRouter()
    turns = Turns()

    @allow(Scope.SEND)
    async def bulk(request: Request) -> Response:
        """Check, save and deliver each message by itself; messages to one device leave in the order given.

        An `Idempotency-Key` covers each message at its place: after a cut call, the same call completes it.
        """
        media_type, body = await read_body(
            request,
            {_JSON, _NDJSON, _CSV},
            limit=limits.bodies.largest_bulk,
            setting="CHAPAR_MAX_BULK_BYTES",
        )
        caller = caller_of(request)
        call = _Call(messaging, request, body, limits.bodies.largest, in_lines=media_type != _JSON)
        async with turns.work() as work:
            steps = _FORMS[media_type](body)
            if media_type == _CSV:
                call.columns = await call.read_header(steps, work)
            places = await _places(steps, work)
            if media_type == _JSON:
                await call.check_grammar(places, work)
        share: BodyShare = request.scope["body_share"]
        share.take(len(places) * MESSAGE_SIZE)
        limits.messages(caller, len(places))
        with limits.waiting(caller):
            answered = await call.send_all(places, turns)
        headers = {"Preference-Applied": ASYNC} if call.asynchronous else None
        return StreamingResponse(in_chunks(_as_json(answered)), headers=headers, media_type=_JSON)

    router.add_api_route(
        "/bulk",
        bulk,
        methods=["POST"],
        summary="Send many operations in one call",
        operation_id="send_messages",
        response_model=BulkAnswer,
        responses=answers(400, 408, 413, 415, 422),
        openapi_extra={
            "parameters": [KEY_PARAMETER, PREFER_PARAMETER],
            "requestBody": {
                "required": True,
                "content": {
                    _JSON: {
                        "schema": {
                            "type": "object",
                            "required": ["messages"],
                            "additionalProperties": False,
                            "properties": {
                                "messages": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": MAX_MESSAGES,
                                    "items": {"$ref": "#/components/schemas/SendRequest"},
                                }
                            },
                        }
                    },
                    _NDJSON: {"schema": {"type": "string", "pattern": "\\S", "description": "One message a line."}},
                    _CSV: {
                        "schema": {
                            "type": "string",
                            "description": "One message a row. The header names fields; `params.NAME` is a parameter.",
                            "examples": ["imei,micro_op,params.litres\n861234567890123,set_flow,20\n"],
                        }
                    },
                },
            },
        },
        route_class_override=RequestRoute,
    )
    return router


class _Call:
    """One bulk call: its messages are parts of `body`, each of at most `limit` bytes."""

    def __init__(self, messaging: Messaging, request: Request, body: bytes, limit: int, *, in_lines: bool) -> None:
        self.columns: Columns | None = None  #: of CSV
        self.asynchronous = prefers_async(request)
        self._key = _key_or_error(request)
        self._messaging = messaging
        self._caller = caller_of(request)
        self._body = body
        self._limit = limit
        self._language = language_of(request)
        self._lines: list[int] | None = [] if in_lines else None  # where each message stands, as an editor counts

    async def read_header(self, steps: Steps, work: Work) -> Columns:
        """The first row; raises FieldInvalid, RowMalformed, BodyTooLarge."""
        for found in steps:
            if work.is_over:
                await work.end_turn()
            if found is not None:
                if not self._is_short(found):
                    raise BodyTooLarge(self._limit, "CHAPAR_MAX_BODY_BYTES")
                return Columns(self._body[found])
        raise FieldInvalid("messages", Phrase("rule.message_count", limit=MAX_MESSAGES))

    async def check_grammar(self, places: Sequence[slice], work: Work) -> None:
        """Raise BodyMalformed where a message is no JSON, because then the whole is none."""
        for place in places:
            if self._is_short(place):
                check_grammar(self._body[place])
                if work.is_over:
                    await work.end_turn()

    async def send_all(self, places: Sequence[slice], turns: Turns) -> list[Answer]:
        """An answer for each message; the first ones are committed while the next are read."""
        answers: dict[int, Answer] = {}
        together: dict[int, _Request] = {}  # what is to be sent as one list, by its number
        async with asyncio.TaskGroup() as tasks, turns.work() as work:
            end = 0
            for number, place in enumerate(places):
                if self._lines is not None:
                    before = self._lines[-1] if self._lines else 1
                    self._lines.append(before + self._body.count(b"\n", end, place.start))
                    end = place.start
                try:
                    request = self._read(number, place)
                except ChaparError as error:
                    answers[number] = self._refusal(number, error)
                else:
                    if together and not _wait_alike(request, next(iter(together.values()))):
                        tasks.create_task(self._send(together, answers))
                        together = {}
                    together[number] = request
                if len(together) == _AT_A_TIME:
                    tasks.create_task(self._send(together, answers))
                    together = {}
                    await work.end_turn()
                elif work.is_over:
                    await work.end_turn()
            if together:
                tasks.create_task(self._send(together, answers))
        return [answers[number] for number in range(len(places))]

    def _read(self, number: int, place: slice) -> _Request:
        """The command that stands there, and how it uses the key of the call; raises RequestError."""
        if not self._is_short(place):
            raise BodyTooLarge(self._limit, "CHAPAR_MAX_BODY_BYTES")
        item = self._body[place]
        if self.columns is not None:
            item = self.columns.message(item)
        command = read_command(item)
        if command.wait is Wait.DEVICE:
            raise FieldInvalid("wait", Phrase("rule.wait_in_bulk"))
        if isinstance(self._key, FieldInvalid):
            raise self._key.with_traceback(None)
        use = None if self._key is None else self._key.use(item, f"\n{number}")  # no single call's key is so
        return without_waiting(command) if self.asynchronous else command, use

    def _refusal(self, number: int, error: ChaparError) -> Answer:
        return refusal(error, self._language, None if self._lines is None else self._lines[number])

    async def _send(self, requests: dict[int, _Request], answers: dict[int, Answer]) -> None:
        sent = await send_all(self._messaging, self._caller, [*requests.values()], self._language)
        for number, each in zip(requests, sent, strict=True):
            answers[number] = self._refusal(number, each) if isinstance(each, ChaparError) else each

    def _is_short(self, place: slice) -> bool:
        return int(place.stop) - int(place.start) <= self._limit


_FORMS: Final[Mapping[str, Callable[[bytes], Steps]]] = {_JSON: in_list, _NDJSON: in_lines, _CSV: in_rows}


def _key_or_error(request: Request) -> RequestKey | FieldInvalid | None:
    """The key that the call names, or what is wrong with it: that is answered for each message."""
    try:
        return key_of(request)
    except FieldInvalid as error:
        return error


def _wait_alike(one: _Request, other: _Request) -> bool:
    return (one[0].wait, one[0].patience) == (other[0].wait, other[0].patience)


async def _places(steps: Steps, work: Work) -> list[slice]:
    """Find where the messages stand; raises FieldInvalid where there is none or one too many."""
    places: list[slice] = []
    for found in steps:
        if found is not None:
            places.append(found)
            if len(places) > MAX_MESSAGES:
                break
        if work.is_over:
            await work.end_turn()
    if not 0 < len(places) <= MAX_MESSAGES:
        raise FieldInvalid("messages", Phrase("rule.message_count", limit=MAX_MESSAGES))
    return places


def _as_json(answered: Sequence[Answer]) -> Iterator[bytes]:
    summary = Counter(str(answer.status) for answer in answered)
    opening = b'{"summary":%s,"answers":[\n' % orjson.dumps(dict(sorted(summary.items())))
    for answer in answered:
        yield b'%s{"status":%d,"body":%s}' % (opening, answer.status, answer.body)
        opening = b",\n"
    yield b"\n]}\n"
