"""`/messaging`: send a message, find it again, list messages."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import to_json

from chapar.api.body import check_unique_fields, read_json_body
from chapar.api.problems import answers, invalid
from chapar.api.schemas import (
    AcceptedAnswer,
    MessagePage,
    MessageView,
    Paged,
    SendRequest,
    SentAnswer,
    message_view,
)
from chapar.errors import MessageNotFound
from chapar.gateway import Gateway
from chapar.message import Message, Status
from chapar.settings import Settings

MessageId = Annotated[str, Path(description="The `id` of the answer that accepted the message.", max_length=64)]


class _RequestRoute(APIRoute):
    """A documented route whose endpoint takes the request as it is.

    FastAPI's own handling of a body costs more than all the rest of a send, and reads it without bounds.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        return self.endpoint


def messaging_router(gateway: Gateway, settings: Settings) -> APIRouter:
    """The routes of `/messaging`."""
    router = APIRouter(prefix="/messaging", tags=["messaging"])

    async def send(request: Request) -> Response:
        """Save one operation for one device, publish it, and say what the broker answered."""
        body = await read_json_body(request, limit=settings.max_body_bytes, seconds=settings.body_timeout)
        try:
            asked = SendRequest.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error) from None
        check_unique_fields(body)
        asked = asked.checked()
        message = await gateway.send(
            asked.imei,
            asked.micro_op,
            params=asked.params_as_text(),
            qos=asked.qos,
            retain=asked.retain,
            at_most_once=asked.at_most_once,
            patience=asked.timeout,
        )
        return _sent(message) if message.status is Status.PUBLISHED else _accepted(message)

    router.add_api_route(
        "/send",
        send,
        methods=["POST"],
        summary="Send an operation to a device",
        status_code=201,
        response_description="Committed, and the broker acknowledged it. It is never sent again.",
        response_model=SentAnswer,
        responses={
            202: {
                "model": AcceptedAnswer,
                "description": "Committed; the broker has not answered yet and the delivery goes on, or it was sent "
                "at most once and nobody knows (`unconfirmed`). `Location` says where to look.",
            },
            **answers(400, 406, 408, 413, 415, 422, 503),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SendRequest.model_json_schema()}},
            }
        },
        route_class_override=_RequestRoute,
    )

    @router.get("/messages", summary="List messages, newest first", responses=answers(422, 503))
    async def messages(query: Paged) -> MessagePage:
        """A page of messages. Pages do not shift when messages arrive: follow `next`."""
        found = await gateway.page(query.filters(), before=query.cursor, limit=query.limit)
        following = found[-1].id if len(found) == query.limit else None
        return MessagePage.model_validate({"messages": list(map(message_view, found)), "next": following})

    @router.get("/messages/{id}", summary="Show one message", responses=answers(404, 422, 503))
    async def message(id: MessageId) -> MessageView:  # noqa: A002 - the name is the path's
        """Where a message stands, with its evidence."""
        if "\0" in id:  # PostgreSQL has no text for it
            raise MessageNotFound(id)
        return MessageView.model_validate(message_view(await gateway.find(id)))

    return router


def _sent(message: Message) -> Response:
    body = {
        "detail": f"Send `{message.micro_op}` to topic `{message.topic}`",
        "id": message.id,
        "status": message.status.value,
        "topic": message.topic,
        "subscribers": message.subscribers,
    }
    return Response(to_json(body), 201, _location(message), "application/json")


def _accepted(message: Message) -> Response:
    body = {
        "detail": f"Accepted `{message.micro_op}` for topic `{message.topic}`",
        "id": message.id,
        "status": message.status.value,
        "topic": message.topic,
    }
    return Response(to_json(body), 202, _location(message), "application/json")


def _location(message: Message) -> dict[str, str]:
    return {"Location": f"/messaging/messages/{message.id}"}
