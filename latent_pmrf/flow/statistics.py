"""What ties the flow's space to the encoder's: per-channel mean and deviation, and the noise of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LatentStatistics:
    """What normalises a latent, and the source noise.

    Attributes:
        mean: Mean of the encoder's output on clean faces, one number per channel; 0 where nothing is normalised, as in
            pixel space.
        std: Its standard deviation, likewise; 1 where nothing is normalised.
        sigma_s: Standard deviation of the source noise, in normalised units; one number or one per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_s: tuple[float, ...]

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) from the encoder's output to the flow's space."""
        return (raw - self._rows(self.mean, raw)) / self._rows(self.std, raw)

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`."""
        return z * self._rows(self.std, z) + self._rows(self.mean, z)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is normalised."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @staticmethod
    def _rows(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
