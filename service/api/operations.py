"""What an operator's machines ask: alive, ready, metrics; in Kubernetes' words and in KServe's."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.context import Context
from service.api.openapi import Responses
from service.api.schemas import LivenessSchema, ReadinessSchema

_NOT_READY: Responses = {503: {"model": ReadinessSchema, "description": "Not ready, with the reasons."}}

_EXPOSITIONS = ("text/plain", "application/openmetrics-text")

router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Is the process alive?")
@router.get("/v2/health/live", summary="Is the process alive? (KServe v2)")
async def live() -> LivenessSchema:
    """Answers as long as the event loop turns."""
    return LivenessSchema(live=True)


@router.get("/readyz", summary="Can photos be restored now?", responses=_NOT_READY)
@router.get("/v2/health/ready", summary="Can photos be restored now? (KServe v2)", responses=_NOT_READY)
async def ready(context: Context, response: Response) -> ReadinessSchema:
    """200 when queue, networks and workers are there and the process is not shutting down; otherwise 503."""
    reasons = await context.reasons_not_ready()
    if reasons:
        response.status_code = 503
    return ReadinessSchema(ready=not reasons, reasons=reasons)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "content": {kind: {"schema": {"type": "string"}} for kind in _EXPOSITIONS},
            "description": "Prometheus' text format, or OpenMetrics if asked for, with exemplars.",
        }
    },
)
async def metrics(request: Request, context: Context) -> Response:
    """Counters, gauges and histograms; names start with `restore_`."""
    told, content_type = context.gateway.metrics.answer(request.headers.get("accept", ""))
    return Response(told, headers={"Content-Type": content_type})
