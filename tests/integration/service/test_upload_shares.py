"""Places for uploads: one owner's silent uploads leave half of them to others, over HTTP and gRPC alike."""

import contextlib
import socket

import grpc
import pytest

from service.rpc import restoration_pb2 as pb
from tests import processes
from tests.api_keys import add_key, bearer
from tests.job_client import PNG, ask, problem
from tests.pictures import encoded, pixels
from tests.rpc_serving import ALIGNED, refusal, rpc_service, until
from tests.serving import fake_service

PLACES = 4
SQUARE = encoded(pixels(64, 64))
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


@contextlib.contextmanager
def silent_upload(client, path, key):
    """A request whose body does not come."""
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: {bearer(key)['Authorization']}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode())
        yield


@pytest.mark.parametrize("path", ["/restore", "/v1/restorations"])
def test_over_http(keys, path):
    greedy, honest = add_key(keys, "greedy"), add_key(keys, "honest")
    photo = {"image": PNG}
    with fake_service(api_keys_file=keys, uploads=PLACES) as (client, _), contextlib.ExitStack() as silent:
        for _ in range(PLACES):
            silent.enter_context(silent_upload(client, path, greedy))

        def refused():
            return client.post("/restore", files=photo, headers=bearer(greedy)).status_code == 429

        processes.until(refused)
        told = problem(client.post("/restore", files=photo, headers=bearer(greedy)), 429, "queue_full")
        assert "yours" in told["detail"]
        assert client.post("/restore", files=photo, headers=bearer(honest)).status_code == 200
        assert ask(client, **bearer(honest)).status_code == 200


async def test_over_grpc(keys):
    greedy, honest = ((("x-api-key", add_key(keys, name)),) for name in ("greedy", "honest"))
    async with rpc_service(api_keys_file=keys, uploads=PLACES) as parts:

        async def opened():
            call = parts.stub.Submit(metadata=greedy)
            await call.write(pb.SubmitRequest(idempotency_key="x"))
            return call

        silent = [await opened() for _ in range(PLACES)]
        request = pb.RestoreRequest(image=SQUARE, options=ALIGNED)
        await until(lambda: sum(call.done() for call in silent) == PLACES // 2)
        assert await refusal(parts.stub.Restore(request, metadata=greedy)) == FULL
        assert (await parts.stub.Restore(request, metadata=honest)).image
        whole = pb.SubmitRequest(image=SQUARE, options=ALIGNED)
        assert (await parts.stub.Submit(iter([whole]), metadata=honest)).job.id
        for call in silent:
            call.cancel()
