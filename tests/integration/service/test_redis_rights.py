"""What docs/SECURITY.md gives the service's user in Redis is enough for all that gateways and workers ask of it."""

import re
import shlex

import pytest

from service.access.caller import Quota, Rate
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.brokers.redis_meter import RedisMeter
from service.brokers.redis_streams import RedisBroker
from service.core.errors import InferenceFailed
from service.core.metrics import Metrics
from service.core.settings import Settings
from tests.face_queues import photo, restored
from tests.fleet import Fleet, check_result, check_results, submit, until_ready
from tests.job_queues import HOOK, result_of
from tests.job_queues import photo as photo_job
from tests.numbered_photos import numbered
from tests.processes import ROOT
from tests.redis_servers import VERSIONS, RedisServer, require_binary

LONG_S = 30.0
USER = "latent-pmrf"
PREFIX = Settings.model_fields["redis_prefix"].default


@pytest.fixture(params=VERSIONS)
def server(request, tmp_path_factory):
    """A server with that user."""
    documented = re.search(
        r"^redis-cli (ACL SETUSER (?:.*\\\n)*.*)", (ROOT / "docs/SECURITY.md").read_text(), re.MULTILINE
    )
    server = RedisServer(require_binary(request.param), tmp_path_factory.mktemp("r"))
    server.start()
    try:
        assert server.tell(*shlex.split(documented[1].replace("\\\n", " "))) == "OK"
        yield server
    finally:
        server.kill()


@pytest.fixture
def url(server):
    """The address by which he is let in, and no other."""
    return f"unix://{USER}@{server.url.removeprefix('unix://')}?password=PASSWORD"


def refused(server):
    """What he was refused, but for introducing the client library, which goes on without."""
    return set(re.findall(r"^object\n(.*)", server.tell("ACL", "LOG"), re.MULTILINE)) - {"client", "client|setinfo"}


@pytest.mark.slow
def test_processes_can_do_their_work(server, url, arithmetic_bundle, tmp_path):
    with Fleet(arithmetic_bundle, tmp_path, server, redis_url=url, lease_s=3) as fleet:
        gateway, worker = fleet.start("gateway", "worker")
        until_ready(gateway, worker)
        check_results(gateway, submit(gateway, [1, 2], preview="true", num_steps="8"))
        check_result(gateway.client.post("/restore", files={"image": numbered(3)}, data={"aligned": "true"}), 3)
        assert "refuses" not in fleet.logs()
    assert not refused(server)


async def test_queues_and_meters_can_do_all_they_promise(server, url):
    faces = RedisBroker(url, max_queued_faces=8, metrics=Metrics(), prefix=PREFIX)
    jobs = RedisJobQueue(url, SharedJobLimits(max_queued_photos=8, result_ttl_s=9.0), metrics=Metrics(), prefix=PREFIX)
    meter = RedisMeter(url, prefix=PREFIX)
    await faces.submit(photo("a", 2))
    first, second = await faces.take(2, LONG_S)
    assert await faces.beat({first.key: 1, second.key: 0}) == set()
    await faces.hand_back([second])
    await faces.complete(restored(first))
    await faces.fail((await faces.take(1, LONG_S))[0], InferenceFailed("not finite"))
    await faces.cancel("a")
    for job_id in ("done", "failed", "withdrawn"):
        await jobs.admit(photo_job(job_id, webhook_url=HOOK, owner="shop"))
    await jobs.take(LONG_S)
    await jobs.finish(result_of("done"))
    await jobs.fail((await jobs.take(LONG_S)).job_id, InferenceFailed("not finite"))
    await jobs.cancel("withdrawn")
    assert (await jobs.result("done")).restoration == result_of("done")
    await jobs.settle_notice(await jobs.due_notice(LONG_S), None)
    assert await jobs.keep(result_of("kept"), "shop") is not None
    await jobs.delete("done")
    await meter.knock("shop", Rate(per_s=1.0, burst=3))
    await meter.spend("shop", Quota(face_px=100, window_s=60.0), 10, "photo")
    await meter.correct("shop", 60.0, 10, once="photo")
    for queue in (faces, jobs):
        assert await queue.ready()
    for each in (faces, jobs, meter):
        await each.close()
    assert not refused(server)
