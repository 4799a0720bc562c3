"""Keys files as the command writes them."""

from __future__ import annotations

from pathlib import Path

from service.access.api_keys import KeyEntry, digest_of, new_key
from service.access.key_file import edited


def add_key(path: Path, name: str = "shop", **limits: float) -> str:
    """Make a key for an owner; returns it."""
    key, key_id = new_key()
    with edited(path) as entries:
        entries.append(KeyEntry(id=key_id, name=name, blake2b=digest_of(key), **limits))
    return key


def drop_key(path: Path, key: str) -> None:
    """Revoke a key."""
    with edited(path) as entries:
        entries[:] = [entry for entry in entries if entry.id not in key]


def bearer(key: str) -> dict[str, str]:
    """The header that shows it."""
    return {"Authorization": f"Bearer {key}"}
