"""`/messaging`: send messages, withdraw and repeat them, find them again."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import StringConstraints, ValidationError, WithJsonSchema

from chapar.delivery.cancellation import Cancellation
from chapar.delivery.idempotency import Use
from chapar.delivery.messages import Messaging
from chapar.delivery.reports import Reporting
from chapar.model.message import LONGEST_WAIT, Command, Wait
from chapar.model.principal import Scope
from chapar.web.api import sending
from chapar.web.api.bulk import bulk_router
from chapar.web.api.idempotency import KEY_PARAMETER, use_of_key
from chapar.web.api.schemas import (
    AcceptedAnswer,
    MessageDetail,
    MessagePage,
    MessageView,
    Paged,
    SentAnswer,
    Shown,
    attempt_view,
    cursor_of,
    message_json,
)
from chapar.web.api.sending import read_command
from chapar.web.http.body import read_body
from chapar.web.http.chunks import in_chunks, page_of
from chapar.web.http.direct import HEAD_ONLY
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, RequestRoute, allow, caller_of, readmit
from chapar.web.http.headers import ASYNC, PREFER_PARAMETER, prefers_async, without_waiting
from chapar.web.http.problems import answers, invalid_query, language_of
from chapar.web.http.proxies import root_path_of
from chapar.web.http.query import check_query
from chapar.web.http.rates import Limits
from chapar.web.http.waits import while_connected

_JSON: Final = "application/json"

MessageId = Annotated[
    str,
    StringConstraints(to_lower=True),
    Path(description="The `id` of the answer that accepted the message, in either case.", max_length=64),
]
Patience = Annotated[
    float | None,
    Query(gt=0, le=LONGEST_WAIT, description="Seconds to wait."),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_WAIT}),
]

_SHOWN_PARAMETERS: Final = [
    {
        "name": name,
        "in": "path" if field.is_required() else "query",
        "required": field.is_required(),
        "description": field.description,
        "schema": field.json_schema_extra,
    }
    for name, field in Shown.model_fields.items()
]

_WHERE_TO_LOOK: Final[dict[str, object]] = {
    "headers": {
        "Location": {"required": True, "description": "Where the message is shown.", "schema": {"type": "string"}},
        "Idempotency-Replayed": {
            "description": "That this is the answer of an earlier call with the same key.",
            "schema": {"type": "string", "enum": ["true"]},
        },
        "Preference-Applied": {
            "description": "The preference that was followed (RFC 7240).",
            "schema": {"type": "string", "enum": [ASYNC]},
        },
    },
    "links": {
        name: {"operationId": f"{name}_message", "parameters": {"id": "$response.body#/id"}}
        for name in ("show", "cancel", "resend")
    },
}

_SENT: Final[dict[int | str, dict[str, object]]] = {
    201: {
        "model": SentAnswer,
        "description": "Committed, and the broker acknowledged it. It is never sent again. With `wait: device` the "
        "device's final word is committed too, whatever it is: read `status` and `reply`.",
        **_WHERE_TO_LOOK,
    },
    202: {
        "model": AcceptedAnswer,
        "description": "Committed, and its delivery goes on; `Location` says where to look. Or it was sent at most "
        "once, and nobody knows whether it arrived (`unconfirmed`). With `wait: device` also where the device did not "
        "answer in time.",
        **_WHERE_TO_LOOK,
    },
}


_CLEARING: Final[dict[int | str, dict[str, object]]] = {
    202: {
        "model": MessageView,
        "description": "The broker retains the message and has not forgotten it yet. The body is the empty message "
        "that will make it; `Location` says where to look.",
        **_WHERE_TO_LOOK,
    },
}


def messaging_router(
    messaging: Messaging, cancellation: Cancellation, reporting: Reporting, limits: Limits
) -> APIRouter:
    """The routes of `/messaging`."""
    router = APIRouter(prefix="/messaging", tags=["messaging"], route_class=GuardedRoute)

    async def answer(request: Request, command: Command, use: Use | None) -> Response:
        caller, asynchronous = caller_of(request), prefers_async(request)
        with limits.waiting(caller):
            command = without_waiting(command) if asynchronous else command
            work = sending.send(messaging, caller, command, use, language_of(request))
            sent = await (while_connected(request, work) if command.wait is Wait.DEVICE else work)
        said = ((b"preference-applied", ASYNC.encode()),) if asynchronous else ()
        return sent.response(root_path_of(request.scope), *said)

    @allow(Scope.SEND)
    async def send(request: Request) -> Response:
        """Save one operation for one device, deliver it, and say what the broker or the device answered."""
        _, body = await read_body(request, {_JSON}, limit=limits.bodies.largest, setting="CHAPAR_MAX_BODY_BYTES")
        command = read_command(body)
        limits.messages(caller_of(request), 1)
        return await answer(request, command, use_of_key(request, body))

    router.add_api_route(
        "/send",
        send,
        methods=["POST"],
        summary="Send an operation to a device",
        operation_id="send_message",
        status_code=201,
        responses=_SENT | answers(400, 406, 408, 409, 413, 415, 422, 429, 503),
        openapi_extra={
            "parameters": [KEY_PARAMETER, PREFER_PARAMETER],
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": {"$ref": "#/components/schemas/SendRequest"}}},
            },
        },
        route_class_override=RequestRoute,
    )
    router.include_router(bulk_router(messaging, limits))

    @router.get(
        "/messages",
        summary="List messages, newest first",
        operation_id="list_messages",
        response_model=MessagePage,
        responses=answers(422, 503),
    )
    @allow(Scope.READ)
    async def messages(query: Paged, caller: Calling) -> Response:
        """A page of messages. Pages do not shift when messages arrive, change or are removed: follow `next`.

        A page has fewer than `limit` messages where it ends at 256 KiB of operations, parameters and replies.
        """
        page = await reporting.page(caller, query.filters(), after=query.position(), limit=query.limit)
        written = page_of("messages", map(message_json, page.messages), cursor_of(page.next))
        return AdmittedStream(in_chunks(written), media_type=_JSON)

    @allow(Scope.READ)
    async def message(request: Request) -> Response:
        """Show where a message stands, with its evidence and its attempts.

        Waiting changes nothing about the message, and any number may wait for it.
        """
        caller, asked = caller_of(request), _shown(request)
        if asked.wait == "none" or HEAD_ONLY in request.scope:
            message = await messaging.find(caller, asked.id)
        else:
            with limits.waiting(caller):
                following = messaging.follow(caller, asked.id, Wait(asked.wait), asked.timeout)
                message = await while_connected(request, following)
            await readmit(request)
        history = list(map(attempt_view, await messaging.attempts(asked.id)))
        return Response(message_json(message, history=history), media_type=_JSON)

    router.add_api_route(
        "/messages/{id}",
        message,
        methods=["GET"],
        summary="Show one message",
        operation_id="show_message",
        response_model=MessageDetail,
        responses=answers(404, 422, 429, 503),
        openapi_extra={"parameters": _SHOWN_PARAMETERS},
        route_class_override=RequestRoute,
    )

    @router.post(
        "/messages/{id}/cancel",
        summary="Withdraw a message",
        operation_id="cancel_message",
        response_model=MessageView,
        responses=_CLEARING | answers(404, 406, 409, 422, 503),
    )
    @allow(Scope.CANCEL)
    async def cancel(id: MessageId, caller: Calling, request: Request) -> Response:  # noqa: A002 - the name is the path's
        """Withdraw a message that waits. It is either withdrawn or goes out, never both: 409 says that it has gone.

        One that the broker retains is taken back: an empty retained message makes the broker forget it, and `history`
        says so.
        """
        message = await cancellation.cancel(caller, id)
        answer = Response(message_json(message), media_type=_JSON)
        if message.clears and message.origin == id:
            answer.status_code = 202
            answer.headers["location"] = f"{root_path_of(request.scope)}/messaging/messages/{message.id}"
        return answer

    @router.post(
        "/messages/{id}/resend",
        summary="Send the same operation again",
        operation_id="resend_message",
        status_code=201,
        responses=_SENT | answers(404, 406, 409, 422, 429, 503),
        openapi_extra={"parameters": [KEY_PARAMETER, PREFER_PARAMETER]},
    )
    @allow(Scope.SEND)
    async def resend(
        id: MessageId,  # noqa: A002 - the name is the path's
        caller: Calling,
        request: Request,
        wait: Annotated[Literal["none", "broker", "device"], Query(description="As for `/messaging/send`.")] = "broker",
        timeout: Patience = None,  # noqa: ASYNC109 - the name is the query's
    ) -> Response:
        """Make a new message of the same operation for the same device; its `origin` is this one."""
        limits.messages(caller, 1)
        use = use_of_key(request, request.scope["query_string"])
        return await answer(request, await messaging.repetition(caller, id, Wait(wait), timeout), use)

    return router


def _shown(request: Request) -> Shown:
    """Return what is to be shown, and what is waited for before that; raises RequestError.

    The framework's own way holds more memory while a call waits than the wait itself.
    """
    asked = {"id": request.path_params["id"]}
    if request.scope["query_string"]:
        check_query(request, {"wait": False, "timeout": False})
        asked |= request.query_params
    try:
        return Shown.model_validate_strings(asked)
    except ValidationError as error:
        raise invalid_query(error) from None
