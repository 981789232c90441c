"""`/health`: whether the process serves, and whether it can deliver."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from chapar.gateway import Gateway


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
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live", summary="Whether the process serves")
    async def live() -> Live:
        """200 while the process serves, whatever the state of database and broker."""
        return Live()

    @router.get(
        "/ready",
        summary="Whether messages can be delivered",
        responses={503: {"model": Ready, "description": "Database or broker is not there; the body says which."}},
    )
    async def ready(response: Response) -> Ready:
        """200 only with database and broker."""
        database, broker = await gateway.readiness()
        is_ready = database is None and broker is None
        response.status_code = 200 if is_ready else 503
        return Ready(
            status="ready" if is_ready else "not_ready",
            database=Part(ready=database is None, reason=database),
            broker=Part(ready=broker is None, reason=broker),
        )

    return router
