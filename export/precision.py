"""The gate of a precision: pictures through it are those of PyTorch in float32, and nothing overflows.

A bundle, whatever runs its networks, goes in; its least PSNR beside the reference comes out, or a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.parity import ParityError, compared_pictures
from latent_pmrf.evaluation.bundle import BundleRestorer, Source
from latent_pmrf.restorer import Restorer

F32Array = npt.NDArray[np.float32]

_SEED = 20261126
_EXTREME_STEPS = 2
_EXTREME_NOISE = 10.0
"""Factor on the source's noise."""


@dataclass(frozen=True, slots=True)
class PrecisionGate:
    """What a precision must hold to be written.

    Attributes:
        psnr_db: Least PSNR of a restored picture beside PyTorch's in float32.
    """

    psnr_db: float = 45.0


class FiniteRestorer(BundleRestorer):
    """A bundle whose networks may give nothing but numbers."""

    def run(self, network: str, **inputs: F32Array) -> F32Array:
        """As `BundleRestorer.run`.

        Raises:
            ParityError: A value is infinite or not a number. It is looked for here, because clipping hides infinities.
        """
        result = super().run(network, **inputs)
        if not np.isfinite(result).all():
            largest = {name: float(np.abs(value).max()) for name, value in inputs.items()}
            raise ParityError(f"{network}: not finite for inputs up to {largest}")
        return result


def check_precision(restorer: Restorer, bundle: FiniteRestorer, num_steps: Sequence[int], gate: PrecisionGate) -> float:
    """Hold a bundle against its float32 reference.

    Args:
        restorer: The reference in PyTorch.
        bundle: The same networks in the precision at hand.
        num_steps: Numbers of Euler steps that are compared.
        gate: What must hold.

    Returns:
        The least PSNR of a posterior mean or of a sample of any of those numbers of steps, in dB.

    Raises:
        ParityError: It is below the gate's, or a network overflows.
    """
    # NumPy's minimum, for Python's passes over a NaN that does not come first.
    least = float(
        np.min(
            [
                psnr_db(reference, found)
                for references, pictures in compared_pictures(restorer, bundle, num_steps)
                for reference, found in zip(references, pictures, strict=True)
            ]
        )
    )
    if not least >= gate.psnr_db:
        raise ParityError(f"pipeline: a picture has {least:.1f} dB beside PyTorch's, less than {gate.psnr_db:g}")
    _check_extremes(bundle)
    return least


def _check_extremes(bundle: FiniteRestorer) -> None:
    """Black, white, noise, and black or white by the pixel, with a source of much more noise than in training."""
    side = bundle.spec.image_size_px
    generator = np.random.default_rng(_SEED)
    shape = (side, side, 3)
    noise = generator.random(shape, dtype=np.float32)
    images = np.stack([np.zeros(shape, np.float32), np.ones(shape, np.float32), noise, np.rint(noise)])
    means = bundle.estimate(images)
    source = bundle.source(means, range(len(images)))
    loud = Source(source.mean, source.mean + _EXTREME_NOISE * (source.x_0 - source.mean))
    bundle.transport(loud, _EXTREME_STEPS)
    bundle.reconstruct(images)


def psnr_db(reference: F32Array, found: F32Array) -> float:
    """PSNR of pictures in [0, 1], in dB; infinite where they are equal."""
    error = float(np.mean(np.square(reference - found, dtype=np.float64)))
    return math.inf if error == 0 else -10 * math.log10(error)
