import asyncio
import ipaddress

import httpx
import pytest

from service.core.errors import InvalidOption
from service.webhooks.targets import AddressRefused, WebhookTargets

NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "192.0.0.9",
    "192.0.0.192",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "2620:4f:8000::1",
    "3fff:fff::1",
    "::ffff:192.0.0.192",
    "64:ff9b::c000:c0",
    "2001::1",
    "2002:7f00:1::",
    "2002:5db8:d822::",
]
PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:1.1.1.1", "64:ff9b::101:101"]


def resolving(*addresses):
    """A resolver that finds these, whatever it is asked."""

    async def resolve(host, port):
        return addresses

    return resolve


async def addresses(url, *found, networks=""):
    targets = WebhookTargets(networks, resolve=resolving(*found))
    return [str(address) for address in await targets.addresses(httpx.URL(url))]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_what_is_not_public_is_refused(address):
    with pytest.raises(AddressRefused):
        await addresses("https://innocent.example/", address)
    host = f"[{address}]" if ":" in address else address
    if "%" not in address:
        with pytest.raises(InvalidOption, match="not public"):
            WebhookTargets().check(f"https://{host}/hook")


@pytest.mark.parametrize("address", PUBLIC)
async def test_what_is_public_is_allowed(address):
    assert await addresses("https://innocent.example/", address) == [str(ipaddress.ip_address(address))]
    WebhookTargets().check(f"https://[{address}]/" if ":" in address else f"https://{address}/")


async def test_only_the_public_addresses_of_a_name_are_used():
    assert await addresses("https://mixed.example/", "10.0.0.1", "1.1.1.1", "::1", "1.1.1.1") == ["1.1.1.1"]


async def test_a_name_without_any_address_is_refused():
    with pytest.raises(AddressRefused):
        await addresses("https://nothing.example/")


@pytest.mark.parametrize("written", ["127.1", "2130706433", "0x7f.1", "localhost", "localhost."])
async def test_other_ways_to_write_this_machine_are_refused_when_they_are_resolved(written):
    with pytest.raises((AddressRefused, OSError)):
        await WebhookTargets().addresses(httpx.URL(f"https://{written}/"))


async def test_a_malformed_name_is_refused():
    with pytest.raises(AddressRefused):
        await WebhookTargets().addresses(httpx.URL(f"https://{'a' * 70}.example/"))


async def test_the_resolver_is_asked_once_for_the_name_as_it_goes_over_the_wire():
    asked = []

    async def resolve(host, port):
        asked.append((host, port))
        return ["1.1.1.1"]

    targets = WebhookTargets(resolve=resolve)
    await targets.addresses(httpx.URL("https://bücher.example/"))
    await targets.addresses(httpx.URL("https://a.example:8443/"))
    assert asked == [("xn--bcher-kva.example", 443), ("a.example", 8443)]


async def test_trusted_networks_may_be_reached_and_without_tls():
    assert await addresses("http://receiver/", "10.1.2.3", networks="10.1.0.0/16, fd00::/8") == ["10.1.2.3"]
    assert await addresses("https://receiver/", "fd00::1", networks="10.1.0.0/16, fd00::/8") == ["fd00::1"]
    assert await addresses("https://receiver/", "::ffff:10.1.2.3", networks="10.1.0.0/16") == ["::ffff:a01:203"]
    for url, found in (("http://receiver/", "10.2.0.1"), ("http://receiver/", "1.1.1.1"), ("https://r/", "127.0.0.1")):
        with pytest.raises(AddressRefused):
            await addresses(url, found, networks="10.1.0.0/16")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "//example.org/",
        "example.org/hook",
        "https://",
        "https:///path",
        "https://user:password@example.org/",
        "https://user@example.org/",
        "https://example.org:99999/",
        "https://example.org:0/",
        "https://0177.0.0.1/",
        "https://exa\nmple.org/",
        "https://[::1/",
        "https://xn--/",
        "https://xn--99999999999/",
        "https://a.xn--\u00fc/",
        "https://example.org/" + "x" * 1000,
        "not a url",
    ],
)
def test_urls_that_can_be_seen_to_be_wrong(url):
    with pytest.raises(InvalidOption) as told:
        WebhookTargets().check(url)
    assert told.value.extra == {"option": "webhook_url"}
    assert "password" not in told.value.detail.replace("user name or password", "")


@pytest.mark.parametrize(
    "url",
    ["https://example.org", "https://example.org:8443/a/b?c=d", "HTTPS://EXAMPLE.ORG/", "https://bücher.example/"],
)
def test_urls_that_are_well_formed(url):
    WebhookTargets().check(url)


def test_plain_http_needs_a_trusted_network():
    WebhookTargets("127.0.0.0/8").check("http://127.0.0.1:9000/hook")
    WebhookTargets("127.0.0.0/8").check("http://receiver:9000/hook")
    with pytest.raises(InvalidOption):
        WebhookTargets("127.0.0.0/8").check("http://10.0.0.1/")
    with pytest.raises(InvalidOption):
        WebhookTargets("127.0.0.0/8").check("http://1.1.1.1/")


async def test_the_systems_resolver_does_not_hold_up_the_loop():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert await WebhookTargets("127.0.0.0/8,::1/128").addresses(httpx.URL("http://localhost/"))
    assert ticks > 1
    ticking.cancel()
