"""Backends in this process on the tiny graphs of `tests.bundle`, and inputs for them."""

import contextlib

import numpy as np

from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.bundle import CHANNELS, write_bundle, write_detector

SIZE_PX = 32


@contextlib.asynccontextmanager
async def opened_backend(make, repository, threads, metrics=None, **bundle):
    """A backend that `make` opens on a bundle and a detector written to `repository`; closed at the end."""
    write_bundle(repository, SIZE_PX, **bundle)
    write_detector(repository)
    made = make(load_manifest(repository), repository, threads, metrics=metrics or Metrics())
    yield made
    await made.close()


def random(*shape):
    """Numbers in [0, 1), float32, always the same."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def latents(rows):
    """As `random`, as the velocity takes them."""
    return random(rows, CHANNELS, SIZE_PX // 8, SIZE_PX // 8)
