"""Runs an exported bundle (`model_repository/`) in batches: the measured networks are the served ones.

    image in [0, 1] -> estimator -> clip -> [-1, 1] -> vae_encoder -> (raw - mean) / std -> + sigma_s * noise
        -> K Euler steps of velocity -> * std + mean -> vae_decoder -> [0, 1]

In pixel space (PMRF) there is no autoencoder: `raw` is the image in [0, 1].

The manifest is read here independently of the service, which this package may not import; a contract test holds the
two together.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from latent_pmrf.flow.solver import euler

F32Array = npt.NDArray[np.float32]

SOURCE_MEAN = "source_mean"
"""Input that only a velocity network has which sees the source without its noise."""

_SIGNATURES = {
    "estimator": ({"image"}, "posterior_mean"),
    "vae_encoder": ({"image"}, "latent"),
    "velocity": ({"x_t", "t"}, "velocity"),
    "vae_decoder": ({"latent"}, "image"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the flow starts, in normalised latents (B, C, h, w).

    Attributes:
        mean: Latents of the posterior means.
        x_0: The same with the source's noise.
    """

    mean: F32Array
    x_0: F32Array


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """The fields of `manifest.json` that evaluation needs.

    Attributes:
        name: Bundle name.
        version: Bundle version.
        space: `latent` or `pixel`.
        image_size_px: Side of the crops.
        latent_mean: One per latent channel.
        latent_std: One per latent channel.
        sigma_s: Standard deviation of the source noise, one number or one per latent channel.
        default_num_steps: What the service uses when nobody asks for another number.
        max_num_steps: Most steps the service allows.
        default_fidelity: As `default_num_steps`.
    """

    name: str
    version: str
    space: str
    image_size_px: int
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    sigma_s: tuple[float, ...]
    default_num_steps: int
    max_num_steps: int
    default_fidelity: float


def read_manifest(repository: Path) -> dict[str, Any]:
    """The parsed `manifest.json` of a bundle.

    Raises:
        ValueError: There is no manifest.
    """
    path = repository / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: export a bundle first") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} holds no object")
    return manifest


def parse_spec(manifest: Mapping[str, Any]) -> BundleSpec:
    """Take what evaluation needs from a manifest.

    Raises:
        ValueError: A field is missing, or the space is unknown.
    """
    if manifest.get("space") not in ("latent", "pixel"):
        raise ValueError(f"space: expected latent or pixel, not {manifest.get('space')!r}")
    try:
        latent = manifest["latent"]
        return BundleSpec(
            name=manifest["name"],
            version=manifest["version"],
            space=manifest["space"],
            image_size_px=int(manifest["image_size_px"]),
            latent_mean=tuple(latent["mean"]),
            latent_std=tuple(latent["std"]),
            sigma_s=tuple(manifest["sigma_s"]),
            default_num_steps=int(manifest["default_num_steps"]),
            max_num_steps=int(manifest["max_num_steps"]),
            default_fidelity=float(manifest["default_fidelity"]),
        )
    except KeyError as error:
        raise ValueError(f"manifest.json lacks {error.args[0]}") from error


def source_noise(shape: Sequence[int], seed: int, face_index: int = 0) -> F32Array:
    """Standard normal noise of one face: the service's generator (`service/sampling/noise.py`), to the bit.

    Args:
        shape: (C, h, w) of the latent.
        seed: Seed of the photo.
        face_index: Index of the face in the photo; 0 for an aligned crop.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, face_index])))
    return generator.standard_normal(tuple(shape), dtype=np.float32)


class Named(Protocol):
    """An input or output of a session."""

    @property
    def name(self) -> str:
        """Its name in the graph."""


class Session(Protocol):
    """What runs a network: the part of onnxruntime's `InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[Named]:
        """The inputs."""

    def get_outputs(self) -> Sequence[Named]:
        """The outputs."""

    def run(self, output_names: None, feeds: Mapping[str, F32Array]) -> Sequence[F32Array]:
        """Every output for inputs by name."""


class BundleRestorer:
    """The networks of one bundle behind the steps of the method.

    Args:
        repository: Folder with `manifest.json`.
        num_threads: Threads of one network call; 0 uses all cores.
        open_session: Makes what runs a network of the content of its file; None takes onnxruntime on the CPU.

    Raises:
        ValueError: The manifest and the files do not agree; the message names the field.
    """

    def __init__(
        self, repository: Path, num_threads: int = 0, open_session: Callable[[bytes], Session] | None = None
    ) -> None:
        self.manifest = read_manifest(repository)
        self.spec = parse_spec(self.manifest)
        open_session = open_session or functools.partial(onnxruntime_session, num_threads=num_threads)
        self._sessions: dict[str, Session] = {}
        self._max_batch: dict[str, int] = {}
        self._in_pixels = self.spec.space == "pixel"
        self._mean_conditioned = False
        for network, (inputs, output) in _SIGNATURES.items():
            if self._in_pixels and network.startswith("vae_"):
                continue
            content = _checked_file(repository, self.manifest, network)
            session = open_session(content)
            found = {value.name for value in session.get_inputs()}, {value.name for value in session.get_outputs()}
            if network == "velocity" and SOURCE_MEAN in found[0]:
                self._mean_conditioned, inputs = True, inputs | {SOURCE_MEAN}
            if found != (inputs, {output}):
                raise ValueError(f"networks.{network}: expected {sorted(inputs)} -> {output}, found {found}")
            self._sessions[network] = session
            self._max_batch[network] = int(self.manifest["networks"][network]["max_batch_size"])
        column = (1, -1, 1, 1)
        self._mean = np.asarray(self.spec.latent_mean, dtype=np.float32).reshape(column)
        self._std = np.asarray(self.spec.latent_std, dtype=np.float32).reshape(column)
        self._sigma_s = np.asarray(self.spec.sigma_s, dtype=np.float32).reshape(column)

    def estimate(self, images: F32Array) -> F32Array:
        """Posterior mean of (B, S, S, 3) images in [0, 1]; same shape and range."""
        mean = self.run("estimator", image=_to_channels_first(images))
        return _to_channels_last(np.clip(mean, 0.0, 1.0))

    def encode(self, images: F32Array) -> F32Array:
        """Normalised latents (B, C, h, w) of (B, S, S, 3) images in [0, 1]."""
        if self._in_pixels:
            raw = _to_channels_first(images)
        else:
            raw = self.run("vae_encoder", image=_to_channels_first(2.0 * images - 1.0))
        return (raw - self._mean) / self._std

    def decode(self, latents: F32Array) -> F32Array:
        """(B, S, S, 3) images in [0, 1] of normalised latents (B, C, h, w)."""
        raw = latents * self._std + self._mean
        image = raw if self._in_pixels else (self.run("vae_decoder", latent=raw) + 1.0) / 2.0
        return _to_channels_last(np.clip(image, 0.0, 1.0))

    def reconstruct(self, images: F32Array) -> F32Array:
        """What the VAE keeps of (B, S, S, 3) images in [0, 1]."""
        return self.decode(self.encode(images))

    def source(self, estimates: F32Array, seeds: Sequence[int]) -> Source:
        """The source of posterior means, one photo seed per row (its face index is 0)."""
        mean = self.encode(estimates)
        noise = np.stack([source_noise(mean.shape[1:], seed) for seed in seeds])
        return Source(mean, mean + self._sigma_s * noise)

    def transport(self, source: Source, num_steps: int) -> F32Array:
        """The restored images (B, S, S, 3) in [0, 1] that `num_steps` Euler steps make of a source."""
        known = {SOURCE_MEAN: source.mean} if self._mean_conditioned else {}

        def velocity(x_t: F32Array, t: float) -> F32Array:
            return self.run("velocity", x_t=x_t, t=np.full(len(x_t), t, dtype=np.float32), **known)

        return self.decode(euler(velocity, source.x_0, num_steps))

    def run(self, network: str, **inputs: F32Array) -> F32Array:
        """The output of one network for inputs of any number of rows."""
        session, limit = self._sessions[network], self._max_batch[network]
        rows = len(next(iter(inputs.values())))
        parts = [
            session.run(None, {name: value[start : start + limit] for name, value in inputs.items()})[0]
            for start in range(0, rows, limit)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def onnxruntime_session(content: bytes, num_threads: int = 1) -> Session:
    """A session of onnxruntime on the CPU, on all cores for 0 threads."""
    import onnxruntime as ort  # deferred: reading a manifest needs no runtime

    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    session: Session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session


def _checked_file(repository: Path, manifest: Mapping[str, Any], network: str) -> bytes:
    entry = manifest.get("networks", {}).get(network)
    if entry is None:
        raise ValueError(f"networks.{network} is missing")
    path = repository / entry["file"]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"networks.{network}.file: {path} does not exist") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        raise ValueError(f"networks.{network}.sha256: {path} has {digest}")
    return content


def _to_channels_first(images: F32Array) -> F32Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)


def _to_channels_last(images: F32Array) -> F32Array:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
