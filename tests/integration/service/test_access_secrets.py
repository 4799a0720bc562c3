"""A service under attack, as its operator runs it: nothing secret is in what it writes, shows or keeps in Redis."""

import contextlib
import json

import grpc
import pytest
import redis

from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceStub
from tests.api_keys import add_key, bearer
from tests.job_client import PNG, ask
from tests.numbered_photos import numbered
from tests.processes import service_process, until
from tests.redis_servers import fresh_prefix, shared_server

WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 5
LOCATION = "/v1/restorations/{}"


@pytest.fixture(scope="module")
def attacked(arithmetic_bundle, tmp_path_factory):
    """What a process has written and shown after an attack, and the secrets that are not to be in it."""
    folder, prefix, server = tmp_path_factory.mktemp("attack"), fresh_prefix(), shared_server("7")
    key = add_key(folder / "keys.json", "shop", requests_per_s=1000, quota_face_px=10**9)
    wrong = key[:-6] + "WRONG0"
    settings = {
        "log_format": "json",
        "api_keys_file": folder / "keys.json",
        "webhook_secret": WEBHOOK_SECRET,
        "redis_url": server.url,
        "redis_prefix": prefix,
        "grpc_port": -1,
    }
    with service_process(arithmetic_bundle, folder / "log", **settings) as service:
        attack_http(service.client, key, wrong)
        attack_grpc(service.rpc_address, key, wrong)
        (folder / "keys.json").write_text(json.dumps({"keys": [{"id": key, "name": wrong, "blake2b": key}]}))
        until(
            lambda: service.client.get("/v1/limits", headers=bearer(wrong)) and "keys known" in service.log.read_text()
        )
        shown = service.metrics() + service.client.get("/openapi.json").text + service.client.get("/v1/limits").text
        kept = everything_in(server.url, prefix)
    written = (folder / "log").read_text()
    return written, shown, kept, [key, wrong, key.split("_", 2)[2], wrong.split("_", 2)[2], WEBHOOK_SECRET]


def everything_in(url, prefix):
    """Names and values of all keys, as text."""
    with redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace") as client:
        read = {
            "string": client.get,
            "hash": client.hgetall,
            "stream": client.xrange,
            "zset": lambda name: client.zrange(name, 0, -1),
            "list": lambda name: client.lrange(name, 0, -1),
        }
        return "".join(f"{name} {read[client.type(name)](name)}\n" for name in client.scan_iter(f"{prefix}*"))


def attack_http(client, key, wrong):
    upload = {"image": PNG}
    for shown in (key, wrong):
        client.get("/v1/limits", headers=bearer(shown))
        client.get("/v1/limits", headers={"X-API-Key": shown})
        client.get("/v1/limits", headers={"Authorization": f"Basic {shown}"})
        client.get(f"/v1/limits?api_key={shown}", headers=bearer(shown))
        client.get(f"/{shown}", headers=bearer(shown))
        client.get(LOCATION.format(shown), headers=bearer(shown))
        client.post(f"/restore?token={shown}", files=upload)
        client.post("/restore", files=upload, data={shown: shown}, headers=bearer(shown))
        client.post("/restore", files={shown: PNG}, headers=bearer(shown))
        client.post("/restore", content=shown.encode(), headers={"Content-Type": f"text/{shown}", **bearer(shown)})
        client.get(
            "/v1/limits", headers={"User-Agent": shown, "Referer": f"http://x/?k={shown}", "Cookie": f"k={shown}"}
        )
        client.request(shown[:20].upper().replace("_", ""), "/v1/limits", headers=bearer(shown))
        ask(client, options={"webhook_url": f"https://127.0.0.1/{shown}"}, **bearer(shown))
    good = {"data": numbered(7), "options": {"aligned": "true"}}
    assert client.post("/restore", files={"image": numbered(7)}, data=good["options"], headers=bearer(key)).is_success
    job = ask(client, **good, Idempotency_Key="order-7", **bearer(key))
    assert job.status_code == 200


def attack_grpc(address, key, wrong):
    with grpc.insecure_channel(address) as channel:
        stub = RestorationServiceStub(channel)
        for shown in (key, wrong):
            for metadata in ((("authorization", f"Bearer {shown}"),), (("x-api-key", shown), ("user-agent", shown))):
                for call in (stub.GetLimits, stub.Restore, stub.Get):
                    request = {"GetLimits": pb.GetLimitsRequest(), "Restore": pb.RestoreRequest(image=b"?")}
                    name = call._method.decode().rpartition("/")[2]
                    with contextlib.suppress(grpc.RpcError):
                        call(request.get(name, pb.GetRequest(id=shown)), metadata=metadata, timeout=60)


def test_no_secret_is_in_what_the_process_writes(attacked):
    written, _, _, secrets = attacked
    assert "the keys known before stay" in written  # it has been heard from
    assert [secret for secret in secrets if secret in written] == []


def test_no_secret_is_in_what_anybody_may_read(attacked):
    _, shown, _, secrets = attacked
    assert "restore_requests" in shown
    assert [secret for secret in secrets if secret in shown] == []


def test_no_secret_is_kept_in_redis(attacked):
    _, _, kept, secrets = attacked
    assert ":meter:" in kept
    assert [secret for secret in secrets if secret in kept] == []
