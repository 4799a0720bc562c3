"""Notices over real connections to a real receiver."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time

import pytest
import trustme
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route

from loadtest.process import held_port
from service.core.jobs import JobState
from service.core.notices import closing_notice
from service.webhooks.sender import Delivery, NoticeSender
from service.webhooks.targets import WebhookTargets
from tests.serving import serving

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
OLD_SECRET = "whsec_" + "b2xkMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1"
HERE = "127.0.0.0/8"


def notice(url):
    return closing_notice("job", url, JobState.SUCCEEDED, ended_s=1_700_000_000.0)


class Receiver:
    """Keeps what it gets and answers what the path says."""

    def __init__(self):
        self.requests = []
        self.app = Starlette(routes=[Route("/{answer:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request):
        self.requests.append((request.method, dict(request.headers), await request.body()))
        answer = request.path_params["answer"]
        if answer == "redirect":
            return RedirectResponse("/200", status_code=307)
        if answer.startswith("leads-to/"):
            return PlainTextResponse("", status_code=302, headers={"Location": answer.removeprefix("leads-to/")})
        if answer == "cookie":
            return PlainTextResponse("answer", headers={"Set-Cookie": "session=secret"})
        if answer == "large":
            return StreamingResponse(self._large())
        return PlainTextResponse("answer", status_code=int(answer or 200))

    async def _large(self):
        for _ in range(1000):
            await asyncio.sleep(0)
            yield b"x" * 65536


@pytest.fixture
def receiver():
    made = Receiver()
    with serving(made.app) as address:
        made.address = address
        yield made


async def deliver(url, *, secret=SECRET, networks=HERE, **fields):
    resolve = fields.pop("resolve", None)
    sender = NoticeSender(secret, WebhookTargets(networks, resolve=resolve), version="9", **fields)
    try:
        return await sender.send(notice(url))
    finally:
        await sender.close()


async def test_a_receiver_can_verify_what_it_gets(receiver):
    assert await deliver(f"{receiver.address}/?of=mine") is Delivery.DELIVERED
    ((method, headers, body),) = receiver.requests
    assert (method, headers["content-type"], headers["user-agent"]) == ("POST", "application/json", "latent-pmrf/9")
    assert headers["host"] == receiver.address.removeprefix("http://")
    document = Webhook(SECRET).verify(body, headers)
    assert document == json.loads(notice("").body)
    assert headers["webhook-id"] == "msg_job"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_SECRET).verify(body, headers)


async def test_while_a_secret_is_replaced_both_verify(receiver):
    await deliver(receiver.address, secret=f"{SECRET} {OLD_SECRET}")
    ((_, headers, body),) = receiver.requests
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("200", Delivery.DELIVERED),
        ("204", Delivery.DELIVERED),
        ("299", Delivery.DELIVERED),
        ("304", Delivery.FAILED),
        ("400", Delivery.FAILED),
        ("404", Delivery.FAILED),
        ("410", Delivery.GONE),
        ("429", Delivery.FAILED),
        ("500", Delivery.FAILED),
        ("599", Delivery.FAILED),
    ],
)
async def test_what_an_answer_means(receiver, answer, expected, caplog):
    caplog.set_level("INFO", "service.webhooks")
    assert await deliver(f"{receiver.address}/{answer}") is expected
    told = f"notice msg_job, attempt 1: answered by {answer}" in caplog.text
    assert told is (expected is not Delivery.DELIVERED)


async def test_a_redirect_is_not_followed(receiver):
    assert await deliver(f"{receiver.address}/redirect") is Delivery.FAILED
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("place", ["mailto:somebody", "data:,", "http://xn--/", "https://host:99999999/"])
async def test_a_redirect_to_what_is_no_address_is_a_failed_attempt(receiver, place):
    """The client reads where it leads to though nobody follows."""
    assert await deliver(f"{receiver.address}/leads-to/{place}") is Delivery.FAILED
    assert len(receiver.requests) == 1


async def test_cookies_of_a_receiver_are_not_kept(receiver):
    """All receivers at one address would be sent them: the name of each stands in `Host` alone."""
    sender = NoticeSender(SECRET, WebhookTargets(HERE), version="9")
    for _ in range(2):
        assert await sender.send(notice(f"{receiver.address}/cookie")) is Delivery.DELIVERED
    await sender.close()
    assert ["cookie" in headers for _, headers, _ in receiver.requests] == [False, False]


async def test_of_a_large_answer_only_the_status_is_read(receiver):
    assert await deliver(f"{receiver.address}/large") is Delivery.DELIVERED


async def test_a_receiver_that_is_not_public_is_never_connected_to(receiver):
    assert await deliver(receiver.address.replace("http", "https"), networks="") is Delivery.REFUSED
    assert await deliver(receiver.address, networks="10.0.0.0/8") is Delivery.REFUSED
    assert receiver.requests == []


async def test_a_name_that_changes_its_mind_is_asked_once(receiver):
    """DNS rebinding: what is connected to is the address that was checked."""
    answers = [["127.0.0.1"], ["127.0.0.99"]]

    async def resolve(host, port):
        return answers.pop(0)

    port = receiver.address.rpartition(":")[2]
    url = f"http://receiver.test:{port}/"
    assert await deliver(url, networks="127.0.0.1/32", resolve=resolve) is Delivery.DELIVERED
    assert len(answers) == 1
    assert receiver.requests[0][1]["host"] == f"receiver.test:{port}"


async def test_the_next_address_is_tried_when_one_does_not_answer(receiver):
    async def resolve(host, port):
        return ["127.0.0.99", "127.0.0.1"]

    port = receiver.address.rpartition(":")[2]
    assert await deliver(f"http://receiver.test:{port}/", resolve=resolve) is Delivery.DELIVERED


async def test_proxies_of_the_environment_are_not_used(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await deliver(receiver.address) is Delivery.DELIVERED


async def test_nobody_there_and_no_such_name():
    with held_port() as port:
        assert await deliver(f"http://127.0.0.1:{port}/") is Delivery.FAILED

    async def resolve(host, port):
        raise socket.gaierror("no such name")

    assert await deliver("https://nowhere.test/", resolve=resolve) is Delivery.FAILED


@contextlib.contextmanager
def silent_server():
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []
        done = threading.Event()

        def accept():
            while not done.is_set():
                with contextlib.suppress(OSError):
                    held.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        done.set()
        with socket.create_connection(listener.getsockname()):
            thread.join()
        for connection in held:
            connection.close()


async def test_a_receiver_that_says_nothing_costs_bounded_time():
    with silent_server() as address:
        assert await deliver(address, timeout_s=0.2) is Delivery.FAILED


async def test_a_resolver_that_says_nothing_costs_bounded_time():
    async def resolve(host, port):
        await asyncio.Event().wait()

    assert await deliver("https://slow.test/", resolve=resolve, timeout_s=0.05) is Delivery.FAILED


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_receiver(authority, tmp_path):
    made = Receiver()
    certificate = authority.issue_cert("receiver.test")
    chain = tmp_path / "receiver.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    with serving(made.app, ssl_certfile=str(chain)) as address:
        made.port = address.rpartition(":")[2]
        yield made


async def deliver_securely(authority, url):
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def resolve(host, port):
        return ["127.0.0.1"]

    return await deliver(url, resolve=resolve, tls=context)


async def test_the_certificate_must_be_the_hosts_though_its_address_is_connected_to(authority, tls_receiver):
    right = await deliver_securely(authority, f"https://receiver.test:{tls_receiver.port}/")
    wrong = await deliver_securely(authority, f"https://other.test:{tls_receiver.port}/")
    assert (right, wrong) == (Delivery.DELIVERED, Delivery.FAILED)
    assert len(tls_receiver.requests) == 1


async def test_a_connection_of_one_host_is_not_used_for_another(authority, tls_receiver):
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def resolve(host, port):
        return ["127.0.0.1"]

    sender = NoticeSender(SECRET, WebhookTargets(HERE, resolve=resolve), version="9", tls=context)
    answers = [await sender.send(notice(f"https://{host}.test:{tls_receiver.port}/")) for host in ("receiver", "other")]
    await sender.close()
    assert answers == [Delivery.DELIVERED, Delivery.FAILED]


async def test_an_unknown_authority_is_not_trusted(tls_receiver):
    async def resolve(host, port):
        return ["127.0.0.1"]

    url = f"https://receiver.test:{tls_receiver.port}/"
    assert await deliver(url, resolve=resolve) is Delivery.FAILED
    assert tls_receiver.requests == []


def test_without_a_secret_nothing_can_be_signed():
    with pytest.raises(ValueError, match="secret"):
        NoticeSender(" ", WebhookTargets(), version="9")
