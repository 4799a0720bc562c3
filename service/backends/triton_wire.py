"""One call of a Triton network: arrays in, request, answer, arrays out.

inputs -> contiguous, of the network's types -> bytes of a request -> server -> bytes of its answer -> float32 arrays
"""

from __future__ import annotations

import asyncio
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput

from service.backends.triton_contract import TritonNetwork, wire_dims
from service.backends.triton_endpoints import Endpoint
from service.core.interfaces import Arrays, Tensors
from service.core.manifest import TensorSpec

DTYPES: dict[str, tuple[str, npt.DTypeLike]] = {
    "float32": ("FP32", np.float32),
    "float16": ("FP16", np.float16),
    "bfloat16": ("BF16", ml_dtypes.bfloat16),
}
"""Triton's and NumPy's names of the manifest's types."""

_US_PER_S = 1_000_000


class OverTheWire:
    """A way for arrays to a server and back: in the messages."""

    async def try_out(self, endpoint: Endpoint) -> None:
        """Who answers can be called."""

    async def call(self, endpoint: Endpoint, network: TritonNetwork, inputs: Tensors, left_s: float) -> Arrays:
        """Run a network of one server; cancelled, the call is withdrawn from the server, too.

        Args:
            endpoint: The server.
            network: Which network.
            inputs: At most `max_batch_size` rows of each input.
            left_s: How long the call may take; the server does not begin it later either.

        Returns:
            Every output, float32.

        Raises:
            InferenceServerException: The call failed.
        """
        requested = await asyncio.to_thread(_requested, network, inputs)
        answer = await ask(endpoint, network, requested, left_s)
        return await asyncio.to_thread(_answered, network, answer)

    async def close(self) -> None:
        """Nothing is kept."""


async def ask(
    endpoint: Endpoint, network: TritonNetwork, inputs: list[InferInput], left_s: float, **more: object
) -> Any:  # noqa: ANN401 - the library has no types
    """Send a request whose time is told to both sides.

    Raises:
        InferenceServerException: It failed.
    """
    return await endpoint.client.infer(
        network.name, inputs, client_timeout=left_s, timeout=max(1, int(left_s * _US_PER_S)), **more
    )


def to_wire(spec: TensorSpec, value: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """An input as the server takes it: of its type, without gaps, with at least one dimension beside the batch."""
    array = np.ascontiguousarray(value, DTYPES[spec.dtype][1])
    return array if array.ndim > 1 else array.reshape(len(array), *wire_dims(spec))


def from_wire(value: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """An output as the service takes it, in memory of its own."""
    return np.array(value, np.float32)


def _requested(network: TritonNetwork, inputs: Tensors) -> list[InferInput]:
    requested = []
    for spec in network.inputs:
        array = to_wire(spec, inputs[spec.name])
        entry = InferInput(spec.name, list(array.shape), DTYPES[spec.dtype][0])
        requested.append(entry.set_data_from_numpy(array))
    return requested


def _answered(network: TritonNetwork, answer: Any) -> Arrays:  # noqa: ANN401 - as above
    return {spec.name: from_wire(answer.as_numpy(spec.name)) for spec in network.outputs}
