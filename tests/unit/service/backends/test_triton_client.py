"""What the client does with the answers of servers: a gRPC server on this loop gives those that a test asks for.

The real Triton server has its own tests (`tests/integration/service/test_triton_*.py`); it cannot be asked to be full,
to end in the middle of a call, or to come back as another one.
"""

import asyncio
import errno
import json
import os

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.triton_config import config_pbtxt
from service.backends.triton_client import TritonBackend
from service.core.errors import DependencyUnavailable, InferenceFailed
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.rpc_serving import until
from tests.scripted_triton import (
    IMAGE,
    LONG_S,
    Scripted,
    calling,
    exchanging,
    serving,
    succeeds,
    with_another_network,
)

UNAVAILABLE, CANCELLED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
FULL = (UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size")


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
