"""Every picture that is measured: estimates, VAE reconstructions and samples of all validation faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.bundle import BundleRestorer
from latent_pmrf.evaluation.dataset import LEVELS, ValidationFace

U8Images = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]  #: stage, items done, items in all

_SEED_STRIDE = 1000


@dataclass(frozen=True, slots=True)
class Restored:
    """Pictures of N faces, each array (N, S, S, 3) uint8 RGB, in the order of the faces.

    Attributes:
        reconstructions: The clean faces through the VAE.
        estimates: Posterior means, by level.
        samples: Ends of the ODE, by level, number of steps and seed.
    """

    reconstructions: U8Images
    estimates: dict[str, U8Images]
    samples: dict[tuple[str, int, int], U8Images]


def photo_seed(seed: int, index: int) -> int:
    """Seed of the photo `index` of a run: the service gives the same face for it with `--seed`."""
    return _SEED_STRIDE * seed + index


def restoring(
    bundle: BundleRestorer,
    faces: Sequence[ValidationFace],
    runs: Sequence[tuple[int, int]],
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Iterator[Restored]:
    """Run the networks over all faces; gives what there is after the VAE's reconstructions, and after each level.

    Args:
        bundle: The networks.
        faces: The faces.
        runs: Pairs (number of steps, seed) to sample.
        batch_size: Faces per network call.
        progress: Called after each batch.
    """

    def tell(stage: str, done: int) -> None:
        if progress is not None:
            progress(f"restore {stage}", done, len(faces))

    reconstructions: list[U8Images] = []
    for start, batch in _batches(faces, batch_size):
        reconstructions.append(to_u8(bundle.reconstruct(to_unit([face.clean for face in batch]))))
        tell("clean", start + len(batch))
    restored = Restored(np.concatenate(reconstructions), {}, {})
    yield restored
    for level in LEVELS:
        estimates: list[U8Images] = []
        samples: dict[tuple[int, int], list[U8Images]] = {run: [] for run in runs}
        for start, batch in _batches(faces, batch_size):
            mean = bundle.estimate(to_unit([face.degraded[level] for face in batch]))
            estimates.append(to_u8(mean))
            for seed in sorted({seed for _, seed in runs}):
                source = bundle.source(mean, [photo_seed(seed, start + row) for row in range(len(batch))])
                for num_steps in (steps for steps, run_seed in runs if run_seed == seed):
                    samples[num_steps, seed].append(to_u8(bundle.transport(source, num_steps)))
            tell(level, start + len(batch))
        restored.estimates[level] = np.concatenate(estimates)
        restored.samples.update({(level, *run): np.concatenate(parts) for run, parts in samples.items()})
        yield restored


def _batches(faces: Sequence[ValidationFace], batch_size: int) -> Iterator[tuple[int, Sequence[ValidationFace]]]:
    for start in range(0, len(faces), batch_size):
        yield start, faces[start : start + batch_size]


def to_unit(images: Sequence[npt.NDArray[np.uint8]]) -> F32Array:
    """(B, S, S, 3) float32 in [0, 1] of uint8 pictures."""
    return np.stack(images).astype(np.float32) / np.float32(255.0)


def to_u8(images: F32Array) -> U8Images:
    """Pictures in [0, 1] rounded to 8 bits, as a user receives them."""
    return np.rint(images * 255.0).astype(np.uint8)
