"""The three phases of a face in the sampler, for a batch of faces, and the value ranges between the networks.

    enter     FaceJob  -> estimator -> vae_encoder -> normalise -> + sigma_s * noise -> FlowFace
    advance   FlowFace -> velocity -> one Euler step -> FlowFace
    leave     FlowFace -> denormalise -> vae_decoder -> RestoredFace

A face with which the estimator goes astray is estimated again from a tamed crop (`taming.py`).

Nothing is kept between two calls. In `pixel` space (PMRF) the flow's space is the picture itself: no VAE is called.
Where the manifest allows certain batch sizes only, the first row is repeated up to the next one and the results of the
repetitions are dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import ParamSpec, TypeVar

import cv2
import numpy as np

from service.core.errors import InferenceFailed, ManifestMismatch, ServiceError, same_for_another
from service.core.interfaces import InferenceBackend
from service.core.manifest import Manifest, NetworkSpec
from service.core.tracing import stage
from service.core.types import F32Array, FaceJob, RestoredFace, U8Image
from service.sampling.noise import source_noise
from service.sampling.ode import euler_step, times
from service.sampling.taming import SMOOTHERS, TAMERS, Faults, Tamer, recoloured

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

OnCall = Callable[[str, Sequence[FaceJob], float], None]

_VALUES_AT_ONCE = 256 * 1024  # some 0.3 ms
_UNITS = np.arange(256, dtype=np.float32) / np.float32(255)
_SOURCE_MEAN = "source_mean"  # input that only a velocity network has which sees the source without its noise
_SIGNATURES = {
    "estimator": (("image",), "posterior_mean"),
    "vae_encoder": (("image",), "latent"),
    "velocity": (("x_t", "t"), "velocity"),
    "vae_decoder": (("latent",), "image"),
}


class Phase(Enum):
    """What a face needs next."""

    ENTER = auto()
    ADVANCE = auto()
    LEAVE = auto()


_NETWORKS = {
    Phase.ENTER: ("estimator", "vae_encoder"),
    Phase.ADVANCE: ("velocity",),
    Phase.LEAVE: ("vae_decoder",),
}


@dataclass(frozen=True, slots=True)
class FlowFace:
    """A face on its way from source to target.

    Attributes:
        job: What was asked for.
        posterior_mean: (S, S, 3) float32 RGB in [0, 1].
        source_mean: (C, h, w) float32, its latent: the source without its noise.
        z_t: (C, h, w) float32, the state at `t = steps_done / job.num_steps`.
        steps_done: Euler steps taken.
        timings_ms: Milliseconds by network so far; a call's time counts in full for each face of its batch.
        estimate: (C, h, w) float32, where it seems to arrive, `z_t + (1 - t) v_t`, if a preview is due; else None.
        colour: Share of the crop's colour that the networks were shown.
    """

    job: FaceJob
    posterior_mean: F32Array
    source_mean: F32Array
    z_t: F32Array
    steps_done: int
    timings_ms: Mapping[str, float]
    estimate: F32Array | None = None
    colour: float = 1.0

    @property
    def arrived(self) -> bool:
        """Whether the state is at `t = 1`."""
        return self.steps_done == self.job.num_steps


class Phases:
    """The calls of one bundle's networks; each phase raises the ServiceError of a call that fails.

    Args:
        backend: Runs the networks.
        manifest: The bundle's contract.
        on_call: Told of every call that has ended well: network, faces, Unix time of its beginning.

    Raises:
        ManifestMismatch: A network's inputs or outputs are not called as they are called here, or have no sizes.
    """

    def __init__(self, backend: InferenceBackend, manifest: Manifest, on_call: OnCall | None = None) -> None:
        _check_names(manifest)
        self._backend = backend
        self._on_call = on_call
        self._specs = {name: manifest.networks[name] for name in _called(manifest)}
        self._limits = manifest.max_coarse_shift, manifest.max_roughness
        self._picture_values = 3 * manifest.image_size_px**2
        self._state_shape = _state_shape(manifest)
        self._in_latent_space = manifest.space == "latent"
        velocity_inputs = [tensor.name for tensor in manifest.networks["velocity"].inputs]
        self._mean_conditioned = _SOURCE_MEAN in velocity_inputs
        self._mean, self._std, self._sigma_s = (
            np.asarray(values, np.float32).reshape(1, -1, 1, 1)
            for values in (manifest.latent.mean, manifest.latent.std, manifest.sigma_s)
        )

    def networks(self, phase: Phase) -> list[NetworkSpec]:
        """Those that a phase calls, in this order."""
        return [self._specs[name] for name in _NETWORKS[phase] if name in self._specs]

    async def enter(self, jobs: Sequence[FaceJob]) -> list[FlowFace]:
        """Posterior mean and source of each face."""
        noises = asyncio.ensure_future(asyncio.to_thread(self._noises, jobs))  # as long as a network on an accelerator
        try:
            pictures, images, faults, estimator_ms = await self._estimated(jobs, [job.crop for job in jobs])
            colours, tamed_ms = await self._tamed(jobs, pictures, images, faults.astray, TAMERS)
            _, smoothed_ms = await self._tamed(jobs, pictures, images, faults.rough, SMOOTHERS)
            timings_ms = {"estimator": estimator_ms + tamed_ms + smoothed_ms}
            raw = images
            if self._in_latent_space:
                raw, timings_ms["vae_encoder"] = await self._call("vae_encoder", jobs, image=images)
            faces = await self._compute(len(jobs), self._sources, jobs, pictures, raw, await noises, timings_ms)
            return [replace(face, colour=colour) for face, colour in zip(faces, colours, strict=True)]
        finally:
            noises.cancel()

    async def _estimated(
        self, jobs: Sequence[FaceJob], crops: Sequence[U8Image]
    ) -> tuple[F32Array, F32Array, Faults, float]:
        """Posterior means as pictures (B, S, S, 3) and as the encoder's input, their faults, and the time."""
        images = await self._compute(len(crops), _to_unit, crops)
        means, call_ms = await self._call("estimator", jobs, image=images)
        pictures, faults = await self._compute(len(crops), self._looked_at, means, images, crops)
        return pictures, images, faults, call_ms

    async def _tamed(
        self,
        jobs: Sequence[FaceJob],
        pictures: F32Array,
        images: F32Array,
        rows: Sequence[int],
        tamers: Sequence[Tamer],
    ) -> tuple[list[float], float]:
        """Estimate again, in place, the given faces: until they are as they should be, or nothing is left to try.

        Returns:
            Per face the share of its colour that it was estimated with, and the milliseconds of all calls.
        """
        colours, spent_ms = [1.0] * len(jobs), 0.0
        for tamer in tamers:
            if not rows:
                break
            tamed = await self._compute(len(rows), tamer.applied, [jobs[row].crop for row in rows])
            again, inputs, faults, call_ms = await self._estimated([jobs[row] for row in rows], tamed)
            spent_ms += call_ms
            for place in set(range(len(rows))) - set(faults.places):
                row = rows[place]
                pictures[row], images[row], colours[row] = again[place], inputs[place], tamer.colour
            rows = [rows[place] for place in faults.places]
        return colours, spent_ms

    def _looked_at(self, means: F32Array, images: F32Array, crops: Sequence[U8Image]) -> tuple[F32Array, Faults]:
        """As `_between`, and what is wrong with the pictures."""
        pictures = self._between(means, images)
        return pictures, Faults.of(pictures, crops, *self._limits)

    async def advance(self, faces: Sequence[FlowFace]) -> list[FlowFace]:
        """One Euler step of each face, at its own time and of its own length."""
        z_t = np.stack([face.z_t for face in faces])  # (B, C, h, w)
        num_steps = [face.job.num_steps for face in faces]
        inputs = {"x_t": z_t, "t": times([face.steps_done for face in faces], num_steps)}
        if self._mean_conditioned:
            inputs[_SOURCE_MEAN] = np.stack([face.source_mean for face in faces])
        v_t, velocity_ms = await self._call("velocity", [face.job for face in faces], **inputs)
        stepped = euler_step(z_t, v_t, num_steps)
        return [
            replace(
                face,
                z_t=z_next,
                steps_done=face.steps_done + 1,
                timings_ms={**face.timings_ms, "velocity": face.timings_ms.get("velocity", 0.0) + velocity_ms},
                estimate=_estimate(face, z_next, velocity) if is_preview_due(face.job, face.steps_done + 1) else None,
            )
            for face, z_next, velocity in zip(faces, stepped, v_t, strict=True)
        ]

    async def leave(self, faces: Sequence[FlowFace]) -> list[RestoredFace]:
        """Pictures of faces that have arrived."""
        samples, timings_ms = await self._decoded([face.z_t for face in faces], [face.job for face in faces])
        return [
            RestoredFace(
                face.job.job_id,
                face.job.face_index,
                recoloured(sample, face.colour),
                recoloured(face.posterior_mean, face.colour),
                {**face.timings_ms, **timings_ms},
            )
            for face, sample in zip(faces, samples, strict=True)
        ]

    async def glance(self, faces: Sequence[FlowFace]) -> list[F32Array]:
        """Pictures of where faces that have an estimate seem to arrive, (S, S, 3) in [0, 1]; told in no trace."""
        seen = [face for face in faces if face.estimate is not None]
        pictures, _ = await self._decoded([face.estimate for face in seen if face.estimate is not None], [])
        return [recoloured(picture, face.colour) for picture, face in zip(pictures, seen, strict=True)]

    async def _decoded(self, states: Sequence[F32Array], jobs: Sequence[FaceJob]) -> tuple[F32Array, dict[str, float]]:
        """The pictures of states, and the call's milliseconds; it is told of for `jobs`."""
        raw = np.stack(states)
        raw *= self._std
        raw += self._mean
        if not self._in_latent_space:
            return await self._compute(len(states), _to_pictures, raw), {}
        pictures, call_ms = await self._call("vae_decoder", jobs, latent=raw)
        return await self._compute(len(states), _from_pm1, pictures), {"vae_decoder": call_ms}

    def _between(self, means: F32Array, images: F32Array) -> F32Array:
        """The pictures of what the estimator gave; `images` becomes the encoder's input, in pixel space the source."""
        means.clip(0.0, 1.0, out=images)
        pictures = _merged(images)
        if self._in_latent_space:
            images *= np.float32(2)
            images -= np.float32(1)
        return pictures

    def _noises(self, jobs: Sequence[FaceJob]) -> list[F32Array]:
        return [source_noise(self._state_shape, job.seed, job.face_index) for job in jobs]

    def _sources(
        self,
        jobs: Sequence[FaceJob],
        pictures: F32Array,
        raw: F32Array,
        noises: Sequence[F32Array],
        timings_ms: Mapping[str, float],
    ) -> list[FlowFace]:
        """The faces at the beginning of their way; the noises become its states."""
        source_means = raw - self._mean
        source_means /= self._std
        faces = []
        for job, picture, source_mean, z_0 in zip(jobs, pictures, source_means, noises, strict=True):
            z_0 *= self._sigma_s[0]
            z_0 += source_mean
            faces.append(FlowFace(job, picture, source_mean, z_0, 0, timings_ms))
        return faces

    async def _compute(self, rows: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Arithmetic on so many pictures, on a thread unless it is shorter than the way there."""
        if rows * self._picture_values <= _VALUES_AT_ONCE:
            return function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)

    async def _call(self, network: str, jobs: Sequence[FaceJob], **inputs: F32Array) -> tuple[F32Array, float]:
        """The network's output and the call's milliseconds, the wait for its turn included."""
        rows = len(next(iter(inputs.values())))
        padding = self._specs[network].rows_of_call(rows) - rows
        if padding:
            taken = [*range(rows), *[0] * padding]
            inputs = {name: value[taken] for name, value in inputs.items()}
        begun_s, begin_s = time.time(), time.perf_counter()
        with stage(network):
            outputs = await self._backend.infer(network, inputs)
        call_ms = (time.perf_counter() - begin_s) * 1000
        if self._on_call is not None and jobs:
            self._on_call(network, jobs, begun_s)
        return np.asarray(outputs[_SIGNATURES[network][1]], np.float32)[:rows], call_ms


async def isolated(
    phase: Callable[[Sequence[T]], Awaitable[Sequence[R]]], faces: Sequence[T]
) -> list[R | ServiceError]:
    """Run a phase; if its batch fails, run each half, and so on, so that only the guilty face fails.

    Returns:
        Per face what the phase makes of it, or why it failed.
    """
    try:
        return list(await phase(faces))
    except InferenceFailed as error:
        if len(faces) == 1:
            return [error]
    except ServiceError as error:  # not a matter of the faces: alone they would fail as well
        return [same_for_another(error) for _ in faces]
    half = len(faces) // 2
    return [*await isolated(phase, faces[:half]), *await isolated(phase, faces[half:])]


def is_preview_due(job: FaceJob, steps_done: int) -> bool:
    """Whether a face is to be seen after so many steps; its end is seen as its result."""
    return job.preview_every > 0 and 0 < steps_done < job.num_steps and steps_done % job.preview_every == 0


def _estimate(face: FlowFace, z_next: F32Array, velocity: F32Array) -> F32Array:
    """Where the face arrives if its velocity stays as it is: the flow's paths are straight, z_1 = z_t + (1 - t) v."""
    left = 1 - (face.steps_done + 1) / face.job.num_steps
    return z_next + np.float32(left) * velocity


def _called(manifest: Manifest) -> list[str]:
    """Networks that are called in the bundle's space."""
    return [name for name in _SIGNATURES if manifest.space == "latent" or not name.startswith("vae_")]


def _state_shape(manifest: Manifest) -> tuple[int, ...]:
    """(C, h, w) of the flow's space."""
    if manifest.space != "latent":
        return 3, manifest.image_size_px, manifest.image_size_px
    sizes = manifest.networks["vae_encoder"].outputs[0].shape[1:]
    found = tuple(size for size in sizes if isinstance(size, int))
    if found != sizes:
        raise ManifestMismatch(
            f"networks.vae_encoder.outputs: the sampler needs sizes, the manifest has {sizes}",
            hint="export the bundle again",
        )
    return found


def _check_names(manifest: Manifest) -> None:
    for network in _called(manifest):
        inputs, output = _SIGNATURES[network]
        spec = manifest.networks[network]
        for field, found, expected in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, (output,))):
            names = {tensor.name for tensor in found}
            if network == "velocity":
                names.discard(_SOURCE_MEAN)
            if names != set(expected):
                raise ManifestMismatch(
                    f"networks.{network}.{field}: the sampler calls {', '.join(expected)}, "
                    f"the manifest has {', '.join(sorted(names)) or 'none'}",
                    hint="export the bundle again",
                )


def _to_unit(crops: Sequence[U8Image]) -> F32Array:
    """(B, 3, S, S) in [0, 1] of (S, S, 3) uint8 pictures."""
    height, width = crops[0].shape[:2]
    images = np.empty((len(crops), 3, height, width), np.float32)
    for image, crop in zip(images, crops, strict=True):
        for plane, samples in zip(image, cv2.split(crop), strict=True):
            cv2.LUT(samples, _UNITS, plane)
    return images


def _from_pm1(images: F32Array) -> F32Array:
    """(B, S, S, 3) in [0, 1] of (B, 3, S, S) in [-1, 1]; clipped. Plane by plane: one fits into a core's cache."""
    return _merged([[_unit_of_pm1(plane) for plane in planes] for planes in images])


def _to_pictures(images: F32Array) -> F32Array:
    """(B, S, S, 3) of (B, 3, S, S); clipped to [0, 1]."""
    pictures = _merged(images)
    return pictures.clip(0.0, 1.0, out=pictures)


def _unit_of_pm1(plane: F32Array) -> F32Array:
    half = np.asarray(cv2.addWeighted(plane, 0.5, plane, 0.0, 0.5), np.float32)
    return half.clip(0.0, 1.0, out=half)


def _merged(images: Sequence[Sequence[F32Array]] | F32Array) -> F32Array:
    """(B, S, S, 3) of (B, 3, S, S)."""
    pictures = np.empty((len(images), *images[0][0].shape, 3), np.float32)
    for picture, planes in zip(pictures, images, strict=True):
        cv2.merge(list(planes), picture)
    return pictures
