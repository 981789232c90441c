"""`/health`: whether the process serves, and whether it can deliver."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from chapar.delivery.messages import Gateway
from chapar.model.principal import NOBODY
from chapar.web.http.entrance import Calling, GuardedRoute, Identity, allow


class Live(BaseModel):
    """The process serves."""

    status: Literal["live"] = "live"


class Part(BaseModel):
    """One thing the gateway needs."""

    ready: bool
    reason: str | None = Field(description="What is wrong, as a sentence; null where nothing is.")


class Ready(BaseModel):
    """Whether a message could be saved and published now."""

    status: Literal["ready", "not_ready"]
    database: Part
    broker: Part


def health_router(gateway: Gateway) -> APIRouter:
    """The routes of `/health`."""
    router = APIRouter(prefix="/health", tags=["health"], route_class=GuardedRoute)

    @router.get("/live", summary="Whether the process serves")
    @allow(Identity.ANY)
    async def live() -> Live:
        """200 while the process serves, whatever the state of database and broker."""
        return Live()

    @router.get(
        "/ready",
        summary="Whether messages can be delivered",
        responses={503: {"model": Ready, "description": "Database or broker is not there; the body says which."}},
    )
    @allow(Identity.ANY)
    async def ready(response: Response, caller: Calling) -> Ready:
        """200 only with database and broker. Why not is told to callers with a key or a token."""
        database, broker = await gateway.readiness()
        is_ready = database is None and broker is None
        response.status_code = 200 if is_ready else 503
        return Ready(
            status="ready" if is_ready else "not_ready",
            database=Part(ready=database is None, reason=None if caller.principal is NOBODY else database),
            broker=Part(ready=broker is None, reason=None if caller.principal is NOBODY else broker),
        )

    return router
