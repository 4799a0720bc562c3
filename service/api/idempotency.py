"""Idempotency-Key header in (draft-ietf-httpapi-idempotency-key-header), what makes a request a repetition out."""

from __future__ import annotations

from collections.abc import Sequence

from service.core.errors import MalformedRequest
from service.submission import MAX_KEY_CHARS, is_idempotency_key

HEADER = "Idempotency-Key"


def parse_key(headers: Sequence[str]) -> str | None:
    """The key of a request, or None if it has none; the quotes the draft asks for may be left out.

    Raises:
        MalformedRequest: There are several, or it is empty, too long, or not of visible ASCII characters.
    """
    if not headers:
        return None
    key = headers[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(headers) > 1 or not is_idempotency_key(key):
        raise MalformedRequest(
            f"{HEADER} must be there once, with 1 to {MAX_KEY_CHARS} visible ASCII characters", hint="a UUID will do"
        )
    return key
