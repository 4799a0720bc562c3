"""From a request to its webhook, through real servers on both sides."""

from __future__ import annotations

import threading

import pytest
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.job_client import ASYNC, ask, problem
from tests.processes import until
from tests.serving import fake_service, serving

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


def test_a_webhook_is_told_and_can_verify_it():
    received, arrived = [], threading.Semaphore(0)

    async def hook(request):
        received.append(Webhook(SECRET).verify(await request.body(), dict(request.headers)))
        arrived.release()
        return Response(status_code=204)

    receiver = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    on = {"webhook_secret": SECRET, "webhook_networks": "127.0.0.0/8"}
    with serving(receiver) as address, fake_service(**on) as (client, _):
        assert client.get("/v1/limits").json()["webhooks"] is True
        job = ask(client, options={"webhook_url": f"{address}/hook"}, **ASYNC).json()
        assert arrived.acquire(timeout=20)
        (document,) = received
        assert document["type"] == "restoration.succeeded"
        assert document["data"]["id"] == job["id"]
        assert client.get(document["data"]["urls"]["result"]).headers["content-type"] == "image/png"
        until(lambda: 'restore_notices_total{outcome="delivered"} 1.0' in client.get("/metrics").text)


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "https://127.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://user:pw@example.org/", "x"],
)
def test_a_webhook_that_must_not_be_reached_is_refused(url):
    with fake_service(webhook_secret=SECRET) as (client, _):
        document = problem(ask(client, options={"webhook_url": url}), 422, "invalid_option")
        assert document["option"] == "webhook_url"
