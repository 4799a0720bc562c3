"""Which servers are called: in turn, and only those whose networks are the right ones and compute."""

import asyncio

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from service.backends.triton_client import TritonBackend
from service.core.errors import DependencyUnavailable, InferenceFailed, ManifestMismatch
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

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_server_whose_network_hangs_is_left_alone_until_it_answers_a_small_call(bundle, config, caplog):
    """It says that it is ready all the while, as one whose GPU hangs does."""
    hung, well = Scripted(config, ["hang"] * 99), Scripted(config)
    async with calling(bundle, hung, well, timeout_s=0.5) as backend:
        with pytest.raises(DependencyUnavailable, match="no answer of Triton within"):
            await asyncio.gather(*(backend.infer("estimator", IMAGE) for _ in range(2)))
        asked = len(well.requests)
        for _ in range(6):
            await succeeds(backend)
        assert len(well.requests) == asked + 6
        assert "can be called" not in caplog.text
        hung.script.clear()
        hung.hanging.set()
        await until(lambda: "can be called" in caplog.text)
        tried = len(hung.requests)
        for _ in range(2):
            await succeeds(backend)
        assert len(hung.requests) == tried + 1


async def test_a_network_that_broke_for_good_fails_what_it_was_at_and_no_more(bundle, config):
    """A GPU that is to be reset answers every call with an error, at once: all that waits would be failed by it."""
    servicer = Scripted(config, [(grpc.StatusCode.INTERNAL, "CUDA failure 719")] * 99)
    async with calling(bundle, servicer) as backend:
        with pytest.raises(InferenceFailed, match="estimator: CUDA failure 719"):
            await backend.infer("estimator", IMAGE)
        waiting = asyncio.create_task(succeeds(backend))
        await until(lambda: len(servicer.requests) > 2)
        assert not await backend.ready()
        assert not waiting.done()
        servicer.script.clear()
        await waiting


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
