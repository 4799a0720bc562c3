"""What a person opens in a browser: the page, the interactive documentation, the meaning of a problem."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

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

# A page's files are of one release: browsers ask whether theirs still are, by their ETags.
_ASK_AGAIN = {"Cache-Control": "no-cache"}

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The demo page."""
    return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY, **_ASK_AGAIN})


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


class _PageFiles(StaticFiles):
    """Files that change with the service."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_ASK_AGAIN)
        return response


def mount_files(app: FastAPI) -> None:
    """Serve the files the page and the documentation are made of."""
    app.mount("/page", _PageFiles(directory=_PAGE), name="page")
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]), name="swagger")
