"""The FastAPI application: routes, error handlers and documentation around one context."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api import documents, operations, problems, restorations, routes
from service.api.context import ApiContext
from service.api.correlation import CorrelateRequests
from service.api.cross_origin import allow_pages_of, readable_by_pages_of
from service.api.head import AnswerHead
from service.api.job_schemas import NoticeSchema
from service.api.openapi import complete_openapi
from service.core.errors import ServiceError

_TAGS = [
    {"name": "restorations", "description": "Photos in, restored photos and reports out."},
    {"name": "service", "description": "What the service accepts and says."},
    {"name": "operations", "description": "Health and metrics."},
]


def create_app(context: ApiContext) -> FastAPI:
    """Build the application around the parts behind the routes."""
    app = FastAPI(
        title="Latent-PMRF face restoration",
        version=context.version,
        summary="Restores the faces of photographs.",
        description="Errors are problem documents (RFC 9457); decide by their `code`.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it leads to where Host says, and into the clear behind what ends TLS, key and all
    )
    app.state.context = context
    origins = context.gateway.settings.allowed_origins
    allow_pages_of(app, origins)
    app.add_middleware(CorrelateRequests, metrics=context.gateway.metrics)
    app.add_middleware(AnswerHead)  # the last one is around all others
    app.add_exception_handler(ServiceError, _at_once(problems.of_service_error))
    app.add_exception_handler(HTTPException, _at_once(problems.of_http_exception))
    app.add_exception_handler(RequestValidationError, _at_once(problems.of_validation_error))
    app.add_exception_handler(Exception, _at_once(readable_by_pages_of(origins, problems.of_defect)))
    for part in (routes, restorations, operations, documents):
        app.include_router(part.router)
    answers: dict[int | str, dict[str, str]] = {"default": {"description": "Tried again; 410 ends it."}}
    app.webhooks.post(
        "restoration-ended",
        summary="A restoration has ended",
        tags=["restorations"],
        status_code=204,
        responses=answers,
    )(_notice)
    documents.mount_files(app)
    app.openapi = partial(complete_openapi, app)  # type: ignore[method-assign]
    return app


def _at_once(
    handler: Callable[[Request, Exception], Response],
) -> Callable[[Request, Exception], Coroutine[None, None, Response]]:
    """The same handler without a thread, which the framework would take, and of which there may be none left."""

    async def handle(request: Request, error: Exception) -> Response:
        return handler(request, error)

    return handle


def _notice(notice: NoticeSchema) -> None:
    """Sent to a job's `webhook_url`, with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

    Answer with 2xx within fifteen seconds. Anything else is tried again for a day, later and later; 410 ends it. The
    same `webhook-id` may come more than once.
    """
