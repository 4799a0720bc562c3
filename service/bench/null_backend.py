"""A backend that answers every call at once with zeros: what is left is the service without its networks.

As with Triton, calls run side by side; nothing is sent anywhere. The zeros are made once and lie in memory as any
answer does, so that reading them costs what it costs, and making them nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.core.errors import InferenceFailed
from service.core.interfaces import Arrays, Tensors
from service.core.manifest import Manifest


class NullBackend:
    """Implements `service.core.interfaces.InferenceBackend`.

    Args:
        manifest: The bundle whose signatures it has; the detector is none of its networks.
    """

    concurrent = True

    def __init__(self, manifest: Manifest) -> None:
        self._shapes = {
            name: {tensor.name: tuple(map(int, tensor.shape[1:])) for tensor in spec.outputs}
            for name, spec in manifest.networks.items()
        }
        self._zeros: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Zeros for as many rows as there are; all calls share them, and nobody can write to them.

        Raises:
            InferenceFailed: There is no such network.
        """
        if network not in self._shapes:
            raise InferenceFailed(f"{network}: there is no such network")
        rows = len(next(iter(inputs.values())))
        return {name: self._rows_of(shape, rows) for name, shape in self._shapes[network].items()}

    async def ready(self) -> bool:
        """It always is."""
        return True

    async def close(self) -> None:
        """It has nothing."""

    def _rows_of(self, shape: tuple[int, ...], rows: int) -> npt.NDArray[np.float32]:
        if shape not in self._zeros or len(self._zeros[shape]) < rows:
            # Unlike those of `np.zeros`, whose pages are all the same one until they are written to.
            self._zeros[shape] = np.full((rows, *shape), 0, np.float32)
            self._zeros[shape].setflags(write=False)
        return self._zeros[shape][:rows]
