"""A webhook's URL in, the addresses that may be connected to out: notices reach public addresses only.

Whoever sends a photo chooses the URL, and the service stands where the caller may not reach. So a name is resolved
here, every address is checked, and the sender connects to the checked address itself: no name is resolved twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from service.core.errors import InvalidOption
from service.core.settings import by_commas

OPTION = "webhook_url"
_MAX_URL_CHARS = 1000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_SPECIAL = [  # from IANA's registries: some versions of Python take these for global (CVE-2024-4032)
    ipaddress.ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "2620:4f:8000::/48")
]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_PORTS = {"https": 443, "http": 80}
_VALID_PORTS = range(1, 65536)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and a port to addresses; raises OSError."""


class AddressRefused(Exception):
    """No address of the URL may be connected to."""


class WebhookTargets:
    """Decides where notices may go.

    Args:
        networks: Networks (CIDR, by commas) that may be reached though they are not public, also by plain HTTP.
        resolve: Finds the addresses of a name; the system's resolver unless a test brings its own.
    """

    def __init__(self, networks: str = "", *, resolve: Resolve | None = None) -> None:
        self._networks = [ipaddress.ip_network(network) for network in by_commas(networks)]
        self._resolve = resolve or _ask_system

    def check(self, url: str) -> None:
        """Refuse a URL that can be seen to be wrong; its name is resolved when a notice is sent.

        Raises:
            InvalidOption: It is no URL, has another scheme or credentials, or names an address that is not public.
        """
        schemes = ["https", "http"] if self._networks else ["https"]
        try:
            parsed = httpx.URL(url)
            scheme, host, port = parsed.scheme, parsed.host, parsed.port  # the host is decoded when it is read
        except (httpx.InvalidURL, UnicodeError) as error:
            raise _invalid(f"it cannot be parsed: {error}") from error
        if len(url) > _MAX_URL_CHARS:
            raise _invalid(f"it has {len(url)} characters, at most {_MAX_URL_CHARS} are allowed")
        if scheme not in schemes or not host:
            raise _invalid(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and name a host")
        if port is not None and port not in _VALID_PORTS:
            raise _invalid("its port is none")
        if parsed.userinfo:
            raise _invalid("it must not hold a user name or password", hint="notices are signed instead")
        literal = _address(host)
        if literal is not None and not self._allows(literal, scheme):
            raise _invalid("its address is not public")

    async def addresses(self, url: httpx.URL) -> list[Address]:
        """Addresses of a URL's host that may be connected to, in the resolver's order.

        Raises:
            AddressRefused: There is none among those that were found.
            OSError: The name was not found.
        """
        try:
            found = await self._resolve(url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        except UnicodeError as error:
            raise AddressRefused("the host's name is malformed") from error
        known = [address for text in dict.fromkeys(found) if (address := _address(text)) is not None]
        allowed = [address for address in known if self._allows(address, url.scheme)]
        if not allowed:
            raise AddressRefused("the host has no public address")
        return allowed

    def _allows(self, address: Address, scheme: str) -> bool:
        meant = _meant(address)
        trusted = any(meant in network for network in self._networks if network.version == meant.version)
        return trusted or (scheme == "https" and _is_public(meant))


async def _ask_system(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _meant(address: Address) -> Address:
    """Where a connection to the address ends: IPv4 may be written as IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        tunnelled = address.sixtofour is not None or address.teredo is not None
        return address in _GLOBAL_UNICAST and not tunnelled
    return True


def _invalid(why: str, *, hint: str = "send an https URL of a public host") -> InvalidOption:
    return InvalidOption(f"{OPTION}: {why}", hint=hint, option=OPTION)
