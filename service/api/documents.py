"""What a person opens in a browser: the page, the interactive documentation, the meaning of a problem."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from service.api import problems
from service.api.openapi import problem_responses
from service.api.schemas import ProblemCodeSchema
from service.core.errors import NotFound

_PAGE = Path(__file__).parent / "page"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Swagger UI sets style attributes; nothing else is loosened for it.
_DOCS_POLICY = _PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The demo page."""
    return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY})


@router.get("/docs", include_in_schema=False)
async def docs() -> FileResponse:
    """Interactive documentation of the HTTP interface; its scripts come from this service, too."""
    return FileResponse(_PAGE / "docs.html", headers={"Content-Security-Policy": _DOCS_POLICY})


@router.get(
    "/problems/{code}", summary="Meaning of a problem code", tags=["service"], responses=problem_responses(NotFound)
)
async def problem(code: str) -> ProblemCodeSchema:
    """What the `type` of a problem document refers to."""
    known = problems.catalogue().get(code)
    meaning = problems.explanation(code)
    if known is None or meaning is None:
        raise NotFound(f"there is no problem code {code[:80]!r}", hint="see /docs")
    return ProblemCodeSchema(code=code, meaning=meaning, **known)


def mount_files(app: FastAPI) -> None:
    """Serve the files the page and the documentation are made of."""
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]), name="swagger")
