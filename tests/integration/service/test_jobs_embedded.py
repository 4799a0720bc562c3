"""Jobs of `latent-pmrf serve` in a process of its own: real networks, real photos, real webhooks, a real signal."""

import contextlib
import signal

import numpy as np
from PIL import Image
from skimage.data import astronaut
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.job_client import ASYNC, ask, events_of
from tests.pictures import decoded, saved
from tests.processes import service_process
from tests.serving import serving

PHOTO = saved(Image.fromarray(astronaut()).resize((384, 384)), "PNG")
LARGE = saved(Image.fromarray(astronaut()).resize((1600, 1600)), "PNG")  # not done before anybody can watch
SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


def test_a_job_gives_what_a_direct_restoration_gives(service):
    options = {"seed": "3", "num_steps": "4"}
    where = ask(service.client, LARGE, options, **ASYNC).headers["location"]
    states = [state for _, _, state in events_of(service.client, where)]
    told = [state["progress"] for state in states if state.get("progress")]
    assert {(progress["num_faces"], progress["num_steps"]) for progress in told} == {(1, 4)}
    assert [progress["steps_done"] for progress in told] == sorted(progress["steps_done"] for progress in told)
    assert states[-1]["faces"][0]["status"] == "restored"
    result = decoded(service.client.get(f"{where}/result").content).astype(int)
    direct = service.client.post("/restore", files={"image": LARGE}, data=options)
    assert np.abs(result - decoded(direct.content)).max() <= 1


@contextlib.contextmanager
def receiver():
    """An address and the ids of the jobs it was told about."""
    ids = []

    async def hook(request):
        document = Webhook(SECRET).verify(await request.body(), dict(request.headers))
        assert document["type"] == "restoration.succeeded"
        ids.append(document["data"]["id"])
        return Response(status_code=204)

    with serving(Starlette(routes=[Route("/", hook, methods=["POST"])])) as address:
        yield f"{address}/", ids


def test_a_signal_lets_admitted_jobs_finish_and_their_webhooks_be_told(arithmetic_bundle, tmp_path):
    settings = {"webhook_secret": SECRET, "webhook_networks": "127.0.0.0/8", "job_photos": 1}
    with receiver() as (url, told), service_process(arithmetic_bundle, tmp_path / "log", **settings) as service:
        jobs = [ask(service.client, PHOTO, {"webhook_url": url}, **ASYNC).json()["id"] for _ in range(5)]
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(60) == 0
        assert sorted(told) == sorted(jobs)
    assert "Traceback" not in service.log.read_text()
