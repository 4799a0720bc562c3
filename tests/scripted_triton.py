"""A Triton server on a test's own loop, which answers as the test asks it to, and a backend that calls it."""

import asyncio
import contextlib

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from service.backends.triton_client import TritonBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.running_bundle import SIZE_PX

LONG_S = 30.0
IMAGE = {"image": np.full((1, 3, SIZE_PX, SIZE_PX), 0.5, np.float32)}


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


def with_another_network(config):
    other = model_config_pb2.ModelConfig()
    other.CopyFrom(config)
    other.parameters["latent_pmrf.sha256"].string_value = "f" * 64
    return other
