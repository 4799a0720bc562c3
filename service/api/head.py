"""HEAD wherever there is GET (RFC 9110, section 9.1): the same answer without its body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ENDLESS = "/events"  # ends the path of streams, which have no answer that could be made and left out


def answers_head(path: str) -> bool:
    """Whether HEAD is answered where GET is."""
    return not path.endswith(_ENDLESS)


class AnswerHead:
    """ASGI middleware around all others: they see a GET, so that every header is what it would be.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def bodiless(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        if scope["type"] == "http" and scope["method"] == "HEAD" and answers_head(scope["path"]):
            await self._app({**scope, "method": "GET"}, receive, bodiless)
        else:
            await self._app(scope, receive, send)
