"""`/health` and `/metrics`: whether the process serves, whether it can deliver, and what it measures."""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from chapar.errors import ChaparError, Phrase
from chapar.model.principal import NOBODY, Scope
from chapar.runtime.metrics import CONTENT_TYPE
from chapar.web.http.entrance import Calling, GuardedRoute, Identity, allow
from chapar.web.http.problems import language_of

RepliesState = Literal["up", "down", "mute", "refused", "elsewhere"]


class Readiness(NamedTuple):
    """Obstacles between the gateway and a delivery: one sentence each, None where all is well."""

    database: ChaparError | Phrase | None
    broker: ChaparError | Phrase | None
    held: int = 0  #: messages that wait for `chapar queue release`
    replies: RepliesState = "elsewhere"


class Live(BaseModel):
    """The process serves."""

    status: Literal["live"] = "live"


class Part(BaseModel):
    """One thing the gateway needs."""

    ready: bool
    reason: str | None = Field(description="What is wrong, as a sentence; null where nothing is.")


class Ready(BaseModel):
    """Readiness: whether a message could be saved and published now."""

    status: Literal["ready", "not_ready"]
    database: Part
    broker: Part
    replies: RepliesState = Field(
        description="Whether this process receives what devices reply. `down`: not connected. `refused`: the broker "
        "does not let it subscribe. `mute`: it does, and passes nothing on. `elsewhere`: another process receives. "
        "Messages are delivered all the same."
    )
    held: int | None = Field(
        description="Messages that do not leave until `chapar queue release`, because a backup was restored and they "
        "may have been sent since; null for callers without a key or token."
    )


def health_router(readiness: Callable[[], Awaitable[Readiness]], exposition: Callable[[], bytes]) -> APIRouter:
    """The routes of `/health` and `/metrics`; `exposition` gives the measurements in Prometheus's text format."""
    router = APIRouter(tags=["health"], route_class=GuardedRoute)

    @router.get("/health/live", summary="Whether the process serves", operation_id="show_liveness")
    @allow(Identity.ANY)
    async def live() -> Live:
        """200 while the process serves, whatever the state of database and broker."""
        return Live()

    @router.get(
        "/health/ready",
        summary="Whether messages can be delivered",
        operation_id="show_readiness",
        responses={503: {"model": Ready, "description": "Database or broker is not there; the body says which."}},
    )
    @allow(Identity.ANY)
    async def ready(request: Request, response: Response, caller: Calling) -> Ready:
        """200 only with database and broker. Callers with a key or a token see why not."""
        language = language_of(request)

        def part(trouble: ChaparError | Phrase | None) -> Part:
            shown = None if caller.principal is NOBODY else trouble
            return Part(ready=trouble is None, reason=shown and shown.sentence(language))

        database, broker, held, replies = await readiness()
        is_ready = database is None and broker is None
        response.status_code = 200 if is_ready else 503
        response.headers.update({"Content-Language": language, "Vary": "Accept-Language"})
        return Ready(
            status="ready" if is_ready else "not_ready",
            database=part(database),
            broker=part(broker),
            replies=replies,
            held=None if caller.principal is NOBODY else held,
        )

    @router.get(
        "/metrics",
        summary="Counts and measurements for Prometheus",
        operation_id="show_metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": "chapar_link_up 1.0\n"}}}},
    )
    @allow(Scope.METRICS)
    async def metrics() -> Response:
        """Messages accepted and ended, the latency of each stage, commit batches, queue and link; of all workers."""
        return Response(exposition(), headers={"Content-Type": CONTENT_TYPE})

    return router
