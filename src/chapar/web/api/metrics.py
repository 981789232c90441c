"""`/metrics`: counts and measurements for Prometheus."""

from fastapi import APIRouter, Response

from chapar.delivery.messages import Gateway
from chapar.model.principal import Scope
from chapar.runtime.metrics import CONTENT_TYPE
from chapar.web.http.entrance import GuardedRoute, allow


def metrics_router(gateway: Gateway) -> APIRouter:
    """The route of `/metrics`."""
    router = APIRouter(tags=["health"], route_class=GuardedRoute)

    @router.get(
        "/metrics",
        summary="Counts and measurements for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": "chapar_link_up 1.0\n"}}}},
    )
    @allow(Scope.METRICS)
    async def metrics() -> Response:
        """Messages accepted and ended, the latency of each stage, commit batches, queue and link; of all workers."""
        return Response(gateway.exposition(), headers={"Content-Type": CONTENT_TYPE})

    return router
