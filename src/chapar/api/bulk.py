"""`/messaging/bulk`: many messages in one call, an answer for each."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from chapar.api.access import RequestRoute, allow, caller_of
from chapar.api.body import check_depth, parse, read_body
from chapar.api.idempotency import KEY_PARAMETER, use_of_key
from chapar.api.limits import Limits
from chapar.api.preferences import ASYNC, PREFER_PARAMETER, prefers_async, without_waiting
from chapar.api.problems import answers, language_of
from chapar.api.sending import Answer, read_command, refusal, send
from chapar.errors import ChaparError, FieldInvalid, persian_digits
from chapar.gateway import Gateway
from chapar.principal import Scope
from chapar.settings import Settings

MAX_MESSAGES: Final = 10_000

_AT_A_TIME: Final = 50  # messages read in one turn of the event loop, which other callers share
_MAX_DEPTH: Final = 512  # levels of the whole; below it, a message that is too deep fails alone
_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"


class BulkItem(BaseModel):
    """What became of one message: the status and the body that `/messaging/send` would have answered."""

    status: int = Field(examples=[201])
    body: dict[str, object]


class BulkAnswer(BaseModel):
    """An answer for each message, in the order of the request."""

    summary: dict[str, int] = Field(description="Messages by status.", examples=[{"201": 998, "422": 2}])
    answers: list[BulkItem]


def bulk_router(gateway: Gateway, settings: Settings, limits: Limits) -> APIRouter:
    """The route of `/messaging/bulk`."""
    router = APIRouter()

    @allow(Scope.SEND)
    async def bulk(request: Request) -> Response:
        """Check, save and deliver each message by itself; messages to one device leave in the order given.

        An `Idempotency-Key` covers each message at its place: after a cut call, the same call completes it.
        """
        media_type, body = await read_body(
            request,
            {_JSON, _NDJSON},
            limit=settings.max_bulk_bytes,
            setting="CHAPAR_MAX_BULK_BYTES",
        )
        items = _lines(body) if media_type == _NDJSON else _items(body)
        if not 0 < len(items) <= MAX_MESSAGES:
            raise FieldInvalid(
                "messages",
                f"must hold 1 to {MAX_MESSAGES:,} messages",
                f"باید ۱ تا {persian_digits(f'{MAX_MESSAGES:,}')} پیام داشته باشد",
            )
        caller = caller_of(request)
        limits.messages(caller, len(items))
        asynchronous = prefers_async(request)
        language = language_of(request)

        async def one(place: int, item: bytes) -> Answer:
            try:
                command = read_command(item)
                if asynchronous:
                    command = without_waiting(command)
                use = use_of_key(request, item, f"\n{place}")  # which no key of a single call has
                return await send(gateway, caller, command, use, language)
            except ChaparError as error:
                return refusal(error, language)

        with limits.waiting(caller):
            async with asyncio.TaskGroup() as tasks:
                answering = []
                for place, item in enumerate(items):
                    answering.append(tasks.create_task(one(place, item)))
                    if place % _AT_A_TIME == 0:  # the first ones are committed while the next are read
                        await asyncio.sleep(0)
        headers = {"Preference-Applied": ASYNC} if asynchronous else None
        return Response(_as_json([answer.result() for answer in answering]), headers=headers, media_type=_JSON)

    router.add_api_route(
        "/bulk",
        bulk,
        methods=["POST"],
        summary="Send many operations in one call",
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
                },
            },
        },
        route_class_override=RequestRoute,
    )
    return router


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.splitlines() if line.strip()]


def _items(body: bytes) -> list[bytes]:
    """The messages of `{"messages": […]}`, each as JSON again; raises BodyMalformed, BodyTooDeep, FieldInvalid."""
    check_depth(body, _MAX_DEPTH)
    document = parse(body)
    if not isinstance(document, dict) or set(document) != {"messages"} or not isinstance(document["messages"], list):
        raise FieldInvalid("messages", "must be a list, and the only field", "باید یک فهرست و تنها فیلد درخواست باشد")
    return [json.dumps(item).encode() for item in document["messages"]]


def _as_json(answered: Sequence[Answer]) -> bytes:
    summary = Counter(str(answer.status) for answer in answered)
    items = b",\n".join(b'{"status":%d,"body":%s}' % (answer.status, answer.body) for answer in answered)
    return b'{"summary":%s,"answers":[\n%s\n]}\n' % (to_json(dict(sorted(summary.items()))), items)
