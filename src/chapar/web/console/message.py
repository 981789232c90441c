"""One message: its story in the order of time, and what may still be done about it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response

from chapar.delivery.cancellation import Cancellation
from chapar.delivery.explaining import Explaining
from chapar.delivery.messages import Messaging
from chapar.delivery.replies import Replying
from chapar.errors import ChaparError, MessageNotFound, NotCancellable, NotSent
from chapar.model.message import AT_BROKER, UNFINISHED, Attempt, Message, Status, Wait
from chapar.model.principal import Scope
from chapar.model.reply import Listed
from chapar.web.console.dispatching import send_once
from chapar.web.console.routes import form_of, routes
from chapar.web.console.site import Site, is_live
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of
from chapar.web.http.rates import Limits

_ASK_NO_MORE: Final = 286  # to htmx, which asks again and again: this is the end of the story
_OUTCOMES: Final = frozenset({"published", "retained_cleared"})  # of attempts; the others are reasons


class Step(NamedTuple):
    """A step in the story of a message."""

    at: int  #: ms since the epoch
    kind: str  #: its words are `step.KIND`
    attempt: Attempt | None = None
    reply: Listed | None = None


def message_router(
    site: Site,
    messaging: Messaging,
    cancellation: Cancellation,
    replying: Replying,
    explaining: Explaining,
    limits: Limits,
) -> APIRouter:
    """The page of one message."""
    router = routes()

    async def show(request: Request, problem: ChaparError | None = None) -> Response:
        caller, language, message_id = caller_of(request), chosen_language(request), request.path_params["id"].lower()
        message = await messaging.find(caller, message_id)
        attempts = await messaging.attempts(message.id)
        replies = await replying.of_message(caller, message.id)
        explained = await explaining.explain(caller, message.id)
        return site.page(
            request,
            "message.html",
            _status(request, message, problem),
            message=message,
            why=explained.explanation.parts(language),
            steps=story(message, attempts, replies),
            outcome_kinds={each.outcome: _kind_of(each.outcome) for each in attempts},
            is_live=message.finished_at is None,
            can_cancel=message.status in UNFINISHED or (message.retain and message.status in AT_BROKER),
            can_resend=not message.clears,
            problem=None if problem is None else problem.sentence(language),
        )

    @router.get("/messages/{id}")
    @allow(Scope.READ)
    async def message(request: Request) -> Response:
        """Show a message."""
        return await show(request)

    @router.post("/messages/{id}/cancel")
    @allow(Scope.CANCEL)
    async def cancel(request: Request) -> Response:
        """Withdraw a message."""
        message_id = request.path_params["id"].lower()
        try:
            cancelled = await cancellation.cancel(caller_of(request), message_id)
        except (NotCancellable, NotSent) as error:
            return await show(request, error)
        return site.redirect(request, f"/messages/{cancelled.id}")

    @router.post("/messages/{id}/resend")
    @allow(Scope.SEND)
    async def resend(request: Request) -> Response:
        """Send the same operation again, as a new message."""
        caller, message_id = caller_of(request), request.path_params["id"].lower()
        limits.messages(caller, 1)
        command = await messaging.repetition(caller, message_id, Wait.NONE, None)
        try:
            sent = await send_once(messaging, caller, command, form_of(request).get("key", ""))
        except MessageNotFound:
            raise
        except ChaparError as error:
            return await show(request, error)
        return site.redirect(request, f"/messages/{sent}")

    return router


def _status(request: Request, message: Message, problem: ChaparError | None) -> int:
    if problem is not None:
        return status_of(problem)
    return _ASK_NO_MORE if message.finished_at is not None and is_live(request) else 200


def story(message: Message, attempts: Sequence[Attempt], replies: Sequence[Listed]) -> list[Step]:
    """Everything that is known of a message, in the order of time."""
    steps = [Step(message.created_at, "accepted")]
    if message.deliver_at is not None and message.status is not Status.SCHEDULED:
        steps.append(Step(message.deliver_at, "due"))
    steps += [Step(attempt.at, "attempt", attempt=attempt) for attempt in attempts]
    if message.published_at is not None:
        steps.append(Step(message.published_at, "published"))
    steps += [Step(listed.reply.at, "reply", reply=listed) for listed in replies]
    if message.finished_at is not None and message.finished_at not in {message.published_at, *_times_of(replies)}:
        steps.append(Step(message.finished_at, "ended"))
    return sorted(steps, key=lambda step: step.at)


def _times_of(replies: Sequence[Listed]) -> list[int]:
    return [listed.reply.at for listed in replies]


def _kind_of(outcome: str) -> str:
    return "outcome" if outcome in _OUTCOMES else "reason"
