"""What can go wrong, as a caller sees it: decide by `code`, read `detail` and `hint`.

RestorationError          a refusal of the service, with its code
└── ServerUnreachable     no answer of the service: nothing listens, or the connection was lost
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_OURS = "http_error"
"""Code of what a proxy before the service has answered."""


class RestorationError(Exception):
    """Why a photo was not restored, or a call not answered.

    Attributes:
        code: Stable identifier, part of the service's interface (`GET /problems/{code}`, the README's table).
        title: What the code means, the same words each time.
        detail: What happened this time.
        hint: What to do about it; may be empty.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds to wait before that, or None if the service does not say.
        values: Further members for machines, such as limits.
    """

    def __init__(  # noqa: PLR0913 - the members of a problem document
        self,
        detail: str,
        *,
        code: str,
        title: str,
        hint: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what the service has said."""
        super().__init__(f"{title}: {detail}" + (f" ({hint})" if hint else ""))
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.values = dict(values or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """As copies and other processes have it: the constructor's arguments are not those that an exception keeps."""
        return _made_again, (type(self), self.args), self.__dict__

    def as_document(self) -> dict[str, object]:
        """What a report needs, as JSON."""
        return {
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "hint": self.hint,
            "retryable": self.retryable,
        }


class ServerUnreachable(RestorationError):
    """Nothing answers at the address, or the connection was lost before the answer."""

    def __init__(self, detail: str) -> None:
        """Tell what the network said."""
        super().__init__(
            detail,
            code="unreachable",
            title="The server cannot be reached",
            hint="is it running, and is the address right?",
            retryable=True,
        )


def _made_again(kind: type[RestorationError], arguments: tuple[object, ...]) -> RestorationError:
    return kind.__new__(kind, *arguments)


_MEMBERS = {"type", "title", "status", "detail", "instance", "code", "hint", "retryable"}


def of_problem(document: Mapping[str, Any], *, status: int = 0, retry_after: str | None = None) -> RestorationError:
    """The error that a problem document tells, of this service or of a proxy before it.

    Args:
        document: Members of RFC 9457 and ours; may be empty.
        status: HTTP status of the answer.
        retry_after: Header of the answer.
    """
    retryable = document.get("retryable", status in (429, 502, 503, 504))
    return RestorationError(
        str(document.get("detail", f"status {status}")),
        code=str(document.get("code", NOT_OURS)),
        title=str(document.get("title", "The request was refused")),
        hint=str(document.get("hint") or ""),
        retryable=bool(retryable),
        retry_after_s=_seconds(retry_after),
        values={name: value for name, value in document.items() if name not in _MEMBERS},
    )


def deadline_passed(timeout_s: float) -> RestorationError:
    """The caller's own time is over."""
    return RestorationError(
        f"no answer within {timeout_s:g} s",
        code="deadline_exceeded",
        title="The deadline has passed",
        hint="give a longer timeout_s",
        retryable=True,
    )


def unreadable(error: OSError) -> RestorationError:
    """A photo's file cannot be read, for now: rights change, disks come back; the service was not asked."""
    return RestorationError(
        f"cannot be read: {error.strerror or error}", code="unreadable", title="The file is not read", retryable=True
    )


def without_trace(error: RestorationError) -> RestorationError:
    """The error without the frames in which it came up, and those of its causes: they hold the photo that was sent."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _seconds(retry_after: str | None) -> float | None:
    """Delay of a Retry-After header; a date (proxies may send one) is left to our own back-off."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
