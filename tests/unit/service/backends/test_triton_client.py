"""What the client does with the answers of servers: a gRPC server on this loop gives those that a test asks for.

The real Triton server has its own tests (`tests/integration/service/test_triton_*.py`); it cannot be asked to be full,
to end in the middle of a call, or to come back as another one.
"""

import asyncio
import contextlib
import errno
import json
import os

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from export.triton_config import config_pbtxt
from service.backends.triton_client import TritonBackend
from service.core.errors import DependencyUnavailable, InferenceFailed, ManifestMismatch
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.rpc_serving import until
from tests.running_bundle import SIZE_PX, write_bundle

LONG_S = 30.0
IMAGE = {"image": np.full((1, 3, SIZE_PX, SIZE_PX), 0.5, np.float32)}
UNAVAILABLE, CANCELLED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
FULL = (UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size")


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers calls by the script, and with the input when that has ended."""

    def __init__(self, config, script=()):
        self.config = config
        self.script = list(script)
        self.requests = []
        self.left_s = []
        self.called = asyncio.Event()
        self.hanging = asyncio.Event()
        self.is_ready = True

    async def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=self.is_ready)

    async def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=self.is_ready)

    async def ModelConfig(self, request, context):
        if request.name != self.config.name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return service_pb2.ModelConfigResponse(config=self.config)

    async def ModelInfer(self, request, context):
        self.requests.append(request)
        self.called.set()
        self.left_s.append(context.time_remaining())
        step = self.script.pop(0) if self.script else None
        if step == "hang":
            await self.hanging.wait()
        elif step is not None:
            await context.abort(*step)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        sent = request.inputs[0]
        answer.outputs.add(name="posterior_mean", datatype=sent.datatype, shape=sent.shape)
        answer.raw_output_contents.append(request.raw_input_contents[0])
        return answer


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def config(bundle):
    entry = json.loads((bundle / "manifest.json").read_text())["networks"]["estimator"]
    return text_format.Parse(config_pbtxt("estimator", entry), model_config_pb2.ModelConfig())


async def started(servicer, port=0):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


@contextlib.asynccontextmanager
async def serving(*servicers):
    servers = [await started(servicer) for servicer in servicers]
    yield [f"grpc://127.0.0.1:{port}" for _, port in servers]
    for servicer, (server, _) in zip(servicers, servers, strict=True):
        servicer.hanging.set()
        await server.stop(None)


@contextlib.asynccontextmanager
async def backend_of(bundle, addresses, timeout_s):
    backend = TritonBackend(
        load_manifest(bundle), addresses, metrics=Metrics(), timeout_s=timeout_s, only=["estimator"]
    )
    try:
        await backend.start(LONG_S)
        yield backend
    finally:
        await backend.close()


@contextlib.asynccontextmanager
async def calling(bundle, *servicers, timeout_s=LONG_S):
    async with serving(*servicers) as addresses, backend_of(bundle, addresses, timeout_s) as backend:
        yield backend


@contextlib.asynccontextmanager
async def exchanging(bundle, servicer, successor):
    """A backend, and what puts another server under the address of its server."""
    server, port = await started(servicer)

    async def exchange():
        nonlocal server
        await server.stop(None)
        server, _ = await started(successor, port)

    async with backend_of(bundle, [f"grpc://127.0.0.1:{port}"], 3) as backend:
        yield backend, exchange
    await server.stop(None)


async def succeeds(backend):
    answer = await backend.infer("estimator", IMAGE)
    np.testing.assert_array_equal(answer["posterior_mean"], IMAGE["image"])


@pytest.mark.parametrize("error", [(UNAVAILABLE, "Socket closed"), (CANCELLED, "shutting down"), FULL])
async def test_a_call_that_a_server_did_not_do_is_done_by_another(bundle, config, error):
    servicers = [Scripted(config, [error]), Scripted(config, [])]
    async with calling(bundle, *servicers) as backend:
        await asyncio.gather(*(succeeds(backend) for _ in range(2)))
    assert sum(len(servicer.requests) for servicer in servicers) == 3


async def test_a_call_that_its_only_server_did_not_do_is_made_again_when_the_server_is_found_well(bundle, config):
    servicer = Scripted(config, [(UNAVAILABLE, "Socket closed"), FULL])
    async with calling(bundle, servicer) as backend:
        await succeeds(backend)
    assert len(servicer.requests) == 3


async def test_a_call_that_ends_its_servers_is_given_up(bundle, config):
    servicers = [Scripted(config, [(UNAVAILABLE, "Socket closed")] * 9) for _ in range(2)]
    async with calling(bundle, *servicers) as backend:
        with pytest.raises(DependencyUnavailable, match="estimator: no answer of Triton in 3 attempts: Socket closed"):
            await backend.infer("estimator", IMAGE)
    assert sum(len(servicer.requests) for servicer in servicers) == 3


@pytest.mark.parametrize(
    "status",
    [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED],
)
async def test_a_call_that_was_answered_with_an_error_is_never_made_again(bundle, config, status):
    servicer = Scripted(config, [(status, "no")])
    async with calling(bundle, servicer) as backend:
        with pytest.raises(InferenceFailed, match="estimator: no"):
            await backend.infer("estimator", IMAGE)
        assert len(servicer.requests) == 1
        await succeeds(backend)


async def test_both_sides_know_how_long_a_call_may_take(bundle, config):
    servicer = Scripted(config)
    async with calling(bundle, servicer, timeout_s=7.0) as backend:
        await succeeds(backend)
    assert 0 < servicer.left_s[0] <= 7.1
    assert 0 < servicer.requests[0].parameters["timeout"].int64_param <= 7_000_000


async def test_a_server_that_says_nothing_is_waited_for_as_long_as_a_call_may_take(bundle, config):
    async with calling(bundle, Scripted(config, ["hang"]), timeout_s=0.3) as backend:
        with pytest.raises(DependencyUnavailable, match=r"no answer of Triton within 0\.3 s"):
            await backend.infer("estimator", IMAGE)


async def test_what_the_servers_queue_refused_for_its_time_is_late_not_away(bundle, config):
    servicer = Scripted(config, [(UNAVAILABLE, "Request timeout expired")])
    async with calling(bundle, servicer) as backend:
        with pytest.raises(DependencyUnavailable, match="no answer of Triton within"):
            await backend.infer("estimator", IMAGE)
        await succeeds(backend)


async def test_a_cancelled_call_is_withdrawn(bundle, config):
    servicer = Scripted(config, ["hang"])
    async with calling(bundle, servicer) as backend:
        call = asyncio.create_task(backend.infer("estimator", IMAGE))
        await servicer.called.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await succeeds(backend)


async def test_closing_sends_away_who_waits_for_a_server(bundle, config, caplog):
    servicer = Scripted(config, [(UNAVAILABLE, "Socket closed")])
    async with calling(bundle, servicer) as backend:
        servicer.is_ready = False
        waiting = asyncio.create_task(backend.infer("estimator", IMAGE))
        await until(lambda: "Socket closed" in caplog.text)
        await backend.close()
        with pytest.raises(DependencyUnavailable, match="no Triton server can be called"):
            await waiting
        with pytest.raises(InferenceFailed, match="the backend is closed"):
            await backend.infer("estimator", IMAGE)


async def test_servers_take_turns(bundle, config):
    servicers = [Scripted(config) for _ in range(3)]
    async with calling(bundle, *servicers) as backend:
        for _ in range(9):
            await succeeds(backend)
    assert [len(servicer.requests) for servicer in servicers] == [3, 3, 3]


async def test_a_server_that_comes_back_as_another_one_is_not_used(bundle, config, caplog):
    servicer = Scripted(config, [(UNAVAILABLE, "Socket closed")])
    async with calling(bundle, servicer, timeout_s=3) as backend:
        servicer.config = with_another_network(config)
        with pytest.raises(DependencyUnavailable, match=r"networks\.estimator\.sha256: the server has ffff"):
            await backend.infer("estimator", IMAGE)
        assert not await backend.ready()
        assert len(servicer.requests) == 1
        servicer.config = config
        await backend.start(LONG_S)
        await succeeds(backend)
    assert "networks.estimator.sha256" in caplog.text


def with_another_network(config):
    other = model_config_pb2.ModelConfig()
    other.CopyFrom(config)
    other.parameters["latent_pmrf.sha256"].string_value = "f" * 64
    return other


async def test_a_server_that_was_exchanged_between_calls_is_not_used(bundle, config, caplog):
    """A rollout: no call fails, and gRPC connects anew without a word."""
    replaced, replacing = Scripted(config), Scripted(with_another_network(config))
    async with exchanging(bundle, replaced, replacing) as (backend, exchange):
        await succeeds(backend)
        await exchange()
        with pytest.raises(DependencyUnavailable, match=r"networks\.estimator\.sha256: the server has ffff"):
            await backend.infer("estimator", IMAGE)
        assert not await backend.ready()
        replacing.config = config
        await backend.start(LONG_S)
        await succeeds(backend)
    assert len(replaced.requests) == 1
    assert len(replacing.requests) in {1, 2}  # where the call was faster than the news, its answer was dropped
    assert "the connection has ended" in caplog.text


async def test_an_answer_is_not_taken_from_whoever_came_while_it_was_awaited(bundle, config, monkeypatch, caplog):
    """The call was on its way when the connection ended, and the next one had it."""
    replaced, replacing = Scripted(config), Scripted(with_another_network(config))
    async with exchanging(bundle, replaced, replacing) as (backend, exchange):
        call = backend._transport.call

        async def late(*arguments):
            await exchange()
            await until(lambda: "networks.estimator.sha256" in caplog.text)  # connected again
            return await call(*arguments)

        monkeypatch.setattr(backend._transport, "call", late)
        with pytest.raises(DependencyUnavailable, match=r"networks\.estimator\.sha256"):
            await backend.infer("estimator", IMAGE)
    assert (len(replaced.requests), len(replacing.requests)) == (0, 1)


async def test_a_server_that_cannot_be_checked_is_checked_again_until_it_can(bundle, config, caplog):
    servicer = Scripted(config, [(UNAVAILABLE, "Socket closed")])
    async with calling(bundle, servicer) as backend:
        servicer.config = model_config_pb2.ModelConfig()
        servicer.config.CopyFrom(config)
        servicer.config.input[0].data_type = 99  # of a release after our client's
        waiting = asyncio.create_task(backend.infer("estimator", IMAGE))
        await until(lambda: "unexpected error while Triton at" in caplog.text)
        servicer.config = config
        np.testing.assert_array_equal((await waiting)["posterior_mean"], IMAGE["image"])
    assert caplog.text.count("unexpected error while Triton at") == 1


async def test_a_server_that_is_not_ready_yet_is_waited_for(bundle, config):
    servicer = Scripted(config)
    servicer.is_ready = False
    async with serving(servicer) as addresses:
        backend = TritonBackend(
            load_manifest(bundle), addresses, metrics=Metrics(), timeout_s=LONG_S, only=["estimator"]
        )
        starting = asyncio.create_task(backend.start(LONG_S))
        await asyncio.sleep(0.2)
        assert not starting.done()
        servicer.is_ready = True
        await starting
        await succeeds(backend)
        servicer.is_ready = False
        assert not await backend.ready()
        await backend.close()


async def test_one_wrong_server_among_good_ones_is_a_refusal_to_start(bundle, config):
    wrong = model_config_pb2.ModelConfig()
    wrong.CopyFrom(config)
    wrong.max_batch_size = 2
    with pytest.raises(ManifestMismatch, match=r"networks\.estimator\.max_batch_size: the server has 2"):
        async with calling(bundle, Scripted(config), Scripted(wrong)):
            pytest.fail("it has started")


@pytest.mark.parametrize(("dtype", "sent", "bytes_each"), [("float16", "FP16", 2), ("bfloat16", "BF16", 2)])
async def test_half_precision_travels_as_it_is_and_arrives_as_float32(bundle, dtype, sent, bytes_each):
    described = json.loads((bundle / "manifest.json").read_text())
    for tensor in (*described["networks"]["estimator"]["inputs"], *described["networks"]["estimator"]["outputs"]):
        tensor["dtype"] = dtype
    (bundle / "manifest.json").write_text(json.dumps(described))
    text = config_pbtxt("estimator", described["networks"]["estimator"])
    servicer = Scripted(text_format.Parse(text, model_config_pb2.ModelConfig()))
    async with calling(bundle, servicer) as backend:
        answer = await backend.infer("estimator", IMAGE)
    assert servicer.requests[0].inputs[0].datatype == sent
    assert len(servicer.requests[0].raw_input_contents[0]) == IMAGE["image"].size * bytes_each
    assert answer["posterior_mean"].dtype == np.float32
    np.testing.assert_array_equal(answer["posterior_mean"], IMAGE["image"])  # 0.5 is exact in all of them


async def test_a_server_that_does_not_find_our_memory_is_a_refusal_to_start(bundle, config):
    async with serving(Scripted(config)) as addresses:  # which knows no shared memory at all
        backend = TritonBackend(
            load_manifest(bundle),
            addresses,
            metrics=Metrics(),
            timeout_s=LONG_S,
            shared_memory=True,
            only=["estimator"],
        )
        with pytest.raises(DependencyUnavailable, match="cannot use our shared memory"):
            await backend.start(LONG_S)
        await backend.close()


@pytest.mark.parametrize(("rows", "sizes", "claimed"), [(None, None, 4), (2, None, 2), (9, None, 4), (2, (1, 3, 4), 3)])
async def test_a_process_knows_the_most_that_its_calls_take(bundle, config, monkeypatch, rows, sizes, claimed):
    asked = []

    def allocate(_descriptor, _offset, length):
        asked.append(length)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    manifest = load_manifest(bundle)
    estimator = manifest.networks["estimator"].model_copy(update={"batch_sizes": sizes})
    manifest = manifest.model_copy(update={"networks": {**manifest.networks, "estimator": estimator}})
    async with serving(Scripted(config)) as addresses:
        backend = TritonBackend(
            manifest, addresses, metrics=Metrics(), timeout_s=LONG_S, shared_memory=True, rows=rows, only=["estimator"]
        )
        with pytest.raises(DependencyUnavailable, match="has no room"):
            await backend.start(LONG_S)
        await backend.close()
    assert set(asked) == {2 * claimed * IMAGE["image"].nbytes}  # in and out
