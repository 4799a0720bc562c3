"""Headers of every answer that keep browsers out of trouble, unless a route has chosen its own."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def make_safe(headers: MutableHeaders) -> None:
    """Add what is missing; only files of the page, which have an ETag, are kept by browsers and proxies."""
    for name, value in SAFE_HEADERS.items():
        headers.setdefault(name, value)
    if "etag" not in headers:
        headers.setdefault("Cache-Control", "no-store")
