"""A modelled accelerator: one call at a time, each of a fixed cost and a cost per row; it computes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.core.interfaces import Arrays, Tensors
from service.core.manifest import BATCH, LatentSpec, Manifest, NetworkSpec, TensorSpec

_PX = 8
_PICTURE, _LATENT, _TIME = (3, _PX, _PX), (1, 1, 1), ()
_Shapes = Mapping[str, tuple[int, ...]]
_SIGNATURES: Mapping[str, tuple[_Shapes, _Shapes]] = {
    "estimator": ({"image": _PICTURE}, {"posterior_mean": _PICTURE}),
    "vae_encoder": ({"image": _PICTURE}, {"latent": _LATENT}),
    "velocity": ({"x_t": _LATENT, "t": _TIME}, {"velocity": _LATENT}),
    "vae_decoder": ({"latent": _LATENT}, {"image": _PICTURE}),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of a network call: `call_ms + rows * row_ms`."""

    call_ms: float
    row_ms: float

    def seconds(self, rows: int) -> float:
        """Of a call with so many rows."""
        return (self.call_ms + rows * self.row_ms) / 1000


class ModelledAccelerator:
    """Implements `service.core.interfaces.InferenceBackend` in an event loop's time.

    Args:
        costs: By network; what is not named costs nothing.
        max_rows: Most rows of a call.
    """

    concurrent = False

    def __init__(self, costs: Mapping[str, Cost], max_rows: int) -> None:
        self._costs = costs
        self._max_rows = max_rows
        self._turn = asyncio.Lock()  # first come, first served

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Take the time of a call and give zeros.

        Raises:
            ValueError: There are too many rows for one call.
        """
        rows = len(next(iter(inputs.values())))
        if rows > self._max_rows:
            raise ValueError(f"{network}: {rows} rows in a call, {self._max_rows} fit")
        cost = self._costs.get(network)
        if cost is not None:
            async with self._turn:
                await asyncio.sleep(cost.seconds(rows))
        _, outputs = _SIGNATURES[network]
        return {name: np.zeros((rows, *shape), np.float32) for name, shape in outputs.items()}

    async def ready(self) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """Nothing to release."""


def modelled_manifest(max_rows: int, max_num_steps: int) -> Manifest:
    """A bundle of networks that exist as costs only, for faces of 8 px."""

    def tensors(shapes: _Shapes) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, dtype="float32", shape=(BATCH, *shape)) for name, shape in shapes.items())

    return Manifest(
        schema_version=1,
        name="modelled",
        version="1",
        space="latent",
        image_size_px=_PX,
        latent=LatentSpec(channels=1, downscale=_PX, mean=(0.0,), std=(1.0,)),
        sigma_s=(0.0,),
        default_num_steps=1,
        max_num_steps=max_num_steps,
        default_fidelity=0.0,
        networks={
            name: NetworkSpec(
                file=f"{name}.none",
                sha256="0" * 64,
                inputs=tensors(inputs),
                outputs=tensors(outputs),
                max_batch_size=max_rows,
            )
            for name, (inputs, outputs) in _SIGNATURES.items()
        },
        provenance={},
        quality={},
    )
