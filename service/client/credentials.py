"""An API key in, the header that shows it out. The key is in no message, no `repr` and no log of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "LATENT_PMRF_API_KEY"
"""Environment variable of the key, where the caller gives none."""


def with_key(headers: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """Headers of every request, names in lower case.

    Args:
        headers: The caller's. An `authorization` among them is a proxy's: the key goes beside it, as `x-api-key`.
        api_key: The key; None: that of `LATENT_PMRF_API_KEY`, if there is one; empty: none.

    Raises:
        ValueError: The key can be none, for it has spaces, line ends or other than ASCII characters; or a header can be
            none, for it has the last two. Libraries would say so with key or header in their message.
    """
    named = {name.lower(): value for name, value in (headers or {}).items()}
    for name, value in named.items():
        if not fits_a_header(value):
            raise ValueError(f"the header {name!r} has characters that no header has")
    key = (os.environ.get(VARIABLE, "") if api_key is None else api_key).strip()
    if not key:
        return named
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("the API key has characters that no key has")
    return {**named, "x-api-key": key} if "authorization" in named else {**named, "authorization": f"Bearer {key}"}


def fits_a_header(value: str) -> bool:
    """Whether a header can have it: ASCII characters that are seen, and spaces."""
    return all(" " <= character <= "~" for character in value)
