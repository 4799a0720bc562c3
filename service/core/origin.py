"""Where work comes from: what joins the logs and spans of a worker to those of the request that brought the work."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Travels with a job, a face or a notice; nothing of it changes what is done.

    Attributes:
        request_id: The request's, or empty.
        traceparent: Trace and span that the work belongs to (W3C Trace Context), or empty.
        tracestate: What vendors add to it, or empty.
        sent_s: Unix time when the work was handed over, by the clock of who did; 0 where nobody noted it.
    """

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    sent_s: float = 0.0


def request_id_of(given: str | None) -> str:
    """The caller's request id if it can stand in a log, else a new one.

    Sane are 1 to 128 letters, digits and `._:+/=-`, the first one a letter or a digit: no spaces, no line ends.
    """
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return secrets.token_hex(_ID_BYTES)
