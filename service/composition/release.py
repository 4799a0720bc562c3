"""What is installed."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Version of the installed service."""
    try:
        return metadata.version("latent-pmrf")
    except metadata.PackageNotFoundError:
        return "0+source"
