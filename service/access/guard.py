"""Credentials in, the caller out: the one door of HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

from service.access.accounts import Accounts
from service.access.api_keys import PREFIX
from service.access.caller import ANYBODY, Caller
from service.access.key_file import KeyFile
from service.core.errors import Unauthenticated

AUTHORIZATION, API_KEY = "authorization", "x-api-key"
"""Where a key may be: `Authorization: Bearer KEY`, or `X-API-Key: KEY`; in gRPC the same as metadata."""

_MAX_KEY_CHARS = 256
_HINT = f"send `{AUTHORIZATION.title()}: Bearer KEY` or `X-API-Key: KEY`"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in.

    Attributes:
        keys: The keys that are known; None: everybody may come in.
        accounts: What callers may use.
    """

    keys: KeyFile | None
    accounts: Accounts

    def identify(self, authorization: Sequence[str], api_key: Sequence[str]) -> Caller:
        """Who asks.

        Args:
            authorization: All headers of this name. Beside an `X-API-Key` they are somebody else's, such as a proxy's.
            api_key: All headers of that name.

        Raises:
            Unauthenticated: There is no key, there are several, or it is not known.
        """
        if self.keys is None:
            return ANYBODY
        found = self.keys.ring.find(_shown_key(authorization, api_key))
        if found is None:
            raise Unauthenticated("the key is not known", hint="was it copied as a whole? it may have been revoked")
        return found.caller()

    def recheck(self, caller: Caller) -> None:
        """See whether a key that was shown a while ago is still known.

        Raises:
            Unauthenticated: It is not.
        """
        if self.keys is not None and not self.keys.ring.has(caller.key_id):
            raise Unauthenticated("the key is not known any more", hint="it has been revoked")


def refuse_in_address(query: str) -> None:
    """Refuse a key that is part of an address: addresses are written to logs, histories and `Referer` headers.

    Raises:
        Unauthenticated: There is one.
    """
    if PREFIX in unquote_plus(query):
        raise Unauthenticated("a key is no part of an address: this one has been seen by others", hint=_HINT)


def _shown_key(authorization: Sequence[str], api_key: Sequence[str]) -> str:
    if api_key:
        shown = [key.strip() for key in api_key]
    else:
        parts = [value.strip().partition(" ") for value in authorization]
        shown = [key.strip() for scheme, _, key in parts if scheme.lower() == "bearer"]
    if not shown:
        raise Unauthenticated("the request has no key", hint=_HINT)
    if len(shown) > 1 or len(shown[0]) > _MAX_KEY_CHARS:
        raise Unauthenticated("the request has several keys, or what is no key", hint=_HINT)
    return shown[0]
