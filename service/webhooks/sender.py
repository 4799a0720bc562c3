"""A notice in, one attempt to deliver it: signed by the Standard Webhooks scheme, posted to a checked address."""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
from standardwebhooks.webhooks import Webhook

from service.core.jobs import Notice
from service.webhooks.targets import Address, AddressRefused, WebhookTargets

_TIMEOUT_S = 15.0
_SUCCESS = 2  # hundred and something
# OSError: also the name is not found, or time is up. The last two: a redirect leads to what is no address; it is not
# followed, but read by the client all the same.
_FAILURES = (httpx.TransportError, OSError, httpx.InvalidURL, UnicodeError)
_MAX_ADDRESSES = 4  # tried one after the other until one can be connected to

logger = logging.getLogger(__name__)


class Delivery(StrEnum):
    """How an attempt ended."""

    DELIVERED = "delivered"  #: the receiver answered 2xx
    GONE = "gone"  #: it answered 410: it wants no more
    REFUSED = "refused"  #: it is not at a public address
    FAILED = "failed"  #: anything else; worth another attempt


class NoticeSender:
    """Posts notices; neither redirects nor proxies are followed, and of the answer only the status is read.

    Args:
        secret: `whsec_...`, several separated by spaces: the notice is signed with each.
        targets: Where notices may go.
        version: Of the service, for `User-Agent`.
        timeout_s: Longest time of an attempt, from the resolver's question to the answer's status.
        tls: What certificates are trusted; None for the usual authorities.
    """

    def __init__(
        self,
        secret: str,
        targets: WebhookTargets,
        *,
        version: str,
        timeout_s: float = _TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._keys = [Webhook(key) for key in secret.split()]
        if not self._keys:
            raise ValueError("a notice needs a secret to be signed with")
        self._targets = targets
        self._timeout_s = timeout_s
        # No connection is kept: it would be found again by its address, and the certificate was another host's.
        self._client = httpx.AsyncClient(
            verify=tls or True,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"User-Agent": f"latent-pmrf/{version}", "Content-Type": "application/json"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # another receiver may be at that address
        )

    async def send(self, notice: Notice) -> Delivery:
        """Attempt to deliver a notice."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(notice)
        except AddressRefused as error:
            logger.warning("notice %s is not delivered: %s", notice.notice_id, error)
            return Delivery.REFUSED
        except _FAILURES as error:
            logger.info("notice %s, attempt %d: %r", notice.notice_id, notice.attempt + 1, error)
            return Delivery.FAILED
        if status // 100 == _SUCCESS:
            return Delivery.DELIVERED
        logger.info("notice %s, attempt %d: answered by %d", notice.notice_id, notice.attempt + 1, status)
        return Delivery.GONE if status == HTTPStatus.GONE else Delivery.FAILED

    async def close(self) -> None:
        """Release the connections."""
        await self._client.aclose()

    async def _post(self, notice: Notice) -> int:
        url = httpx.URL(notice.url)
        headers = self._sign(notice)
        *first, last = (await self._targets.addresses(url))[:_MAX_ADDRESSES]
        for address in first:
            try:
                return await self._post_to(address, url, notice.body, headers)
            except httpx.ConnectError:
                continue
        return await self._post_to(last, url, notice.body, headers)

    async def _post_to(self, address: Address, url: httpx.URL, body: bytes, headers: dict[str, str]) -> int:
        """Post to an address, under the name of the URL's host; returns the answer's status."""
        host, netloc = url.raw_host.decode("ascii"), url.netloc.decode("ascii")
        request = self._client.build_request(
            "POST",
            url.copy_with(host=str(address)),
            content=body,
            headers={**headers, "Host": netloc},
            extensions={"sni_hostname": host},
        )
        response = await self._client.send(request, stream=True)
        await response.aclose()
        return response.status_code

    def _sign(self, notice: Notice) -> dict[str, str]:
        now = datetime.now(UTC)
        body = notice.body.decode()
        return {
            "webhook-id": notice.notice_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(notice.notice_id, now, body) for key in self._keys),
        }
