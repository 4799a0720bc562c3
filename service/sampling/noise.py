"""The source's noise: one generator per face, so that neither batch nor order nor machine changes a face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.core.types import F32Array


def source_noise(shape: Sequence[int], seed: int, face_index: int) -> F32Array:
    """Standard normal noise of one face; the same arguments give the same bits on every machine.

    Args:
        shape: (C, h, w) of the flow's space.
        seed: Seed of the photo, not negative.
        face_index: Index of the face in the photo: faces of one photo get noise of their own.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, face_index])))
    return generator.standard_normal(tuple(shape), dtype=np.float32)
