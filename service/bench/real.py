"""The bundled networks in onnxruntime on this machine, in real time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from service.backends.ort_session import OrtBackend
from service.bench.tables import Curves, Point
from service.bench.traffic import backlog, poisson
from service.bench.trial import Networks, Policy, serve
from service.core.manifest import load_manifest
from service.core.metrics import Metrics

SLOTS = 4
DECK = (5, 10, 20)
SHARES = (0.5, 0.8)
_WARM_UP, _BACKLOG, _REQUESTS = 2, 12, 24


async def measure(repository: Path) -> Curves:
    """Saturation and two loads of each policy; some two minutes on two idle cores.

    Raises:
        ManifestMismatch: The bundle is not usable.
    """
    manifest = load_manifest(repository)
    backend = OrtBackend(manifest, repository, 0, metrics=Metrics(), only=manifest.networks)
    shape = (manifest.image_size_px, manifest.image_size_px, 3)
    crop = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    networks = Networks(backend, manifest, min(SLOTS, manifest.networks["velocity"].max_batch_size), SLOTS, crop)
    for policy in Policy:
        await serve(policy, networks, backlog((1,), _WARM_UP * SLOTS, seed=0))
    saturation = {}
    for policy in Policy:
        saturation[policy] = (await serve(policy, networks, backlog(DECK, _BACKLOG, seed=0))).per_s
    curves = Curves(f"{manifest.name}@{manifest.version}, {min(DECK)} to {max(DECK)} steps", saturation)
    for share in SHARES:
        per_s = share * saturation[Policy.WHOLE]
        for policy in Policy:
            trial = await serve(policy, networks, poisson(per_s, DECK, _REQUESTS, seed=1))
            curves.points.append(Point.of(policy, share, per_s, trial))
    await backend.close()
    return curves


def run(repository: Path) -> Curves:
    """`measure` in an event loop of its own."""
    return asyncio.run(measure(repository))
