"""Idempotency-Key header in (draft-ietf-httpapi-idempotency-key-header), what makes a request a repetition out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from service.core.errors import MalformedRequest
from service.core.types import RestoreOptions, Upload

HEADER = "Idempotency-Key"
MAX_CHARS = 255


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
    visible = all(" " <= character <= "~" for character in key)
    if len(headers) > 1 or not key.strip() or len(key) > MAX_CHARS or not visible:
        raise MalformedRequest(
            f"{HEADER} must be there once, with 1 to {MAX_CHARS} visible ASCII characters", hint="a UUID will do"
        )
    return key


def fingerprint(upload: Upload, options: RestoreOptions, webhook_url: str | None) -> str:
    """Digest of what a request asks for: the photo's bytes, the options as the caller chose them, the webhook."""
    digest = hashlib.sha256(json.dumps([asdict(options), webhook_url]).encode())
    digest.update(b"\0")  # no JSON text holds one: where it ends and the photo begins is plain
    digest.update(upload.data)
    return digest.hexdigest()
