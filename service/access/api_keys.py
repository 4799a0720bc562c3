"""API keys: how one looks, and what the service keeps of it.

    lpmrf_3f9c1d20_Vx...43 characters...   handed out once, to its owner
    {"id": "3f9c1d20", "name": "shop", "blake2b": "...", ...}   an entry of the keys file

The id is no secret: by it an entry is found, listed and revoked. The last part has 256 random bits, so nobody can try
them all, whatever a try costs. That is why the digest is a fast one: bcrypt and its kind make up for passwords that can
be guessed, at the price of a tenth of a second for every request, which anybody could make the service pay.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.access.caller import Caller, Quota, Rate

PREFIX = "lpmrf_"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
DAY_S = 86400.0
_ID_BYTES = 4
_SECRET_BYTES = 32
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * _ID_BYTES}}})_[A-Za-z0-9_-]{{43}}")
_PERSON = b"lpmrf api key"  # no other digest of ours can be taken for that of a key


class KeyEntry(BaseModel):
    """What is kept of a key; units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=rf"^[0-9a-f]{{{2 * _ID_BYTES}}}$")
    name: str = Field(pattern=NAME_PATTERN, description="Its owner; several keys of one name are one caller's.")
    blake2b: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False, description="Digest of the whole key.")
    created: str = Field("", max_length=40)
    requests_per_s: float | None = Field(None, ge=1 / DAY_S, le=10_000)  # rarer is nothing that can be reckoned with
    burst: int | None = Field(None, ge=1, le=1_000_000)
    quota_face_px: int | None = Field(None, ge=1, le=2**53)
    quota_window_s: float = Field(DAY_S, ge=1, le=366 * DAY_S)

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst without requests_per_s")
        return self

    @property
    def rate(self) -> Rate | None:
        """How often its owner may ask; without `burst` as much at once as in one second."""
        if self.requests_per_s is None:
            return None
        return Rate(self.requests_per_s, self.burst or max(1, math.ceil(self.requests_per_s)))

    @property
    def quota(self) -> Quota | None:
        """How much."""
        return None if self.quota_face_px is None else Quota(self.quota_face_px, self.quota_window_s)

    def caller(self) -> Caller:
        """Who has shown this key."""
        return Caller(self.name, self.id, self.rate, self.quota)


class KeyRing:
    """The keys that are known.

    Args:
        entries: One per key.

    Raises:
        ValueError: Two have one id.
    """

    def __init__(self, entries: tuple[KeyEntry, ...] = ()) -> None:
        self._entries = {entry.id: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise ValueError("two keys have the same id")

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key, or None; how long that takes tells nothing but what its id tells."""
        shape = _KEY.fullmatch(key)
        entry = None if shape is None else self._entries.get(shape[1])
        expected = "" if entry is None else entry.blake2b
        return entry if hmac.compare_digest(digest_of(key), expected) else None

    def has(self, key_id: str) -> bool:
        """Whether a key of this id is known."""
        return key_id in self._entries


def new_key() -> tuple[str, str]:
    """A key that nobody has, and its id."""
    key_id = secrets.token_hex(_ID_BYTES)
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}", key_id


def digest_of(key: str) -> str:
    """What is kept of a key instead of it."""
    return hashlib.blake2b(key.encode(errors="replace"), digest_size=32, person=_PERSON).hexdigest()
