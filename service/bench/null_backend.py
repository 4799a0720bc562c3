"""A backend that answers every call at once with zeros: what an accelerator costs the service that calls it.

As with Triton, calls run side by side; nothing is sent anywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.core.errors import InferenceFailed
from service.core.interfaces import Tensors
from service.core.manifest import Manifest


class NullBackend:
    """Implements `service.core.interfaces.InferenceBackend`.

    Args:
        manifest: The bundle whose signatures it has; the detector is none of its networks.
    """

    concurrent = True

    def __init__(self, manifest: Manifest) -> None:
        self._outputs = {
            name: {tensor.name: tuple(map(int, tensor.shape[1:])) for tensor in spec.outputs}
            for name, spec in manifest.networks.items()
        }

    async def infer(self, network: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """Zeros for as many rows as there are.

        Raises:
            InferenceFailed: There is no such network.
        """
        if network not in self._outputs:
            raise InferenceFailed(f"{network}: there is no such network")
        rows = len(next(iter(inputs.values())))
        return {name: np.zeros((rows, *shape), np.float32) for name, shape in self._outputs[network].items()}

    async def ready(self) -> bool:
        """It always is."""
        return True

    async def close(self) -> None:
        """It has nothing."""
