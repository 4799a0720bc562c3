"""The contract between training and serving: `model_repository/manifest.json`, read and checked at start."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.core.errors import ManifestMismatch

SCHEMA_VERSION = 1
BATCH = "batch"
_TAG_DIGITS = 12
_WHERE = (
    "run it in the checkout's folder, or set LATENT_PMRF_MODEL_REPOSITORY "
    "to the absolute path of its `model_repository`"
)
_LATER = "where a later release has exported it, run that release, or give this one a bundle of its own"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorSpec(_Model):
    """One input or output of a network; `shape` entries are sizes or the name of a symbolic dimension."""

    name: str
    dtype: Literal["float32", "float16", "bfloat16"]
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None


class NetworkSpec(_Model):
    """One network: its file, the hash of the file, its signature, and how many rows a call may have.

    `batch_sizes` are the numbers of rows that are allowed, ascending, the last of them `max_batch_size`; None is any
    number up to that.
    """

    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = Field(gt=0)
    batch_sizes: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _sizes_ascend(self) -> NetworkSpec:
        sizes = self.batch_sizes
        if sizes is not None and (list(sizes) != sorted({*sizes, self.max_batch_size}) or sizes[0] < 1):
            raise ValueError("batch_sizes must ascend from 1 or more to max_batch_size")
        return self

    def rows_of_call(self, rows: int) -> int:
        """Rows of the call that takes `rows` of them: the same number, or the next that is allowed.

        Raises:
            ValueError: There are more than fit one call.
        """
        if rows > self.max_batch_size:
            raise ValueError(f"{rows} rows, a call takes {self.max_batch_size}")
        return rows if self.batch_sizes is None else min(size for size in self.batch_sizes if size >= rows)


class LatentSpec(_Model):
    """The flow's space: z = (raw - mean) / std per channel, `raw` being the encoder's output."""

    channels: int = Field(gt=0)
    downscale: int = Field(gt=0)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _one_per_channel(self) -> LatentSpec:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError("mean and std must have one entry per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class Manifest(_Model):
    """A bundle. `space` is `latent` (estimator, VAE, velocity) or `pixel` (estimator and velocity: PMRF).

    A face whose coarse brightness or colour its networks move by more than `max_coarse_shift` (`service.core.colour`)
    is not pasted, and one of which the estimator leaves more of the finest detail on the skin than `max_roughness`
    (`service.sampling.taming`) is smoothed before it; None where nobody has measured what ordinary faces need.
    """

    schema_version: Literal[1]
    name: str
    version: str
    space: Literal["latent", "pixel"]
    image_size_px: int = Field(gt=0)
    latent: LatentSpec
    sigma_s: tuple[float, ...]
    default_num_steps: int = Field(gt=0)
    max_num_steps: int = Field(gt=0)
    default_fidelity: float = Field(ge=0, le=1)
    max_coarse_shift: float | None = Field(default=None, gt=0, le=1)
    max_roughness: float | None = Field(default=None, gt=0, le=1)
    networks: dict[str, NetworkSpec]
    provenance: dict[str, Any]
    quality: dict[str, Any]

    @property
    def tag(self) -> str:
        """Name, version and a digest of what a worker makes of a face: workers of one tag can stand in for each other.

        Defaults are the gateway's affair, quality and provenance nobody's. What a bundle leaves out is left out here:
        it has the same tag in a release that knows less.
        """
        immaterial = {"provenance", "quality", "default_num_steps", "default_fidelity"}
        told = self.model_dump(mode="json", exclude=immaterial).items()
        described = json.dumps({name: value for name, value in told if value is not None}, sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()
        return f"{self.name}@{self.version}-{digest[:_TAG_DIGITS]}"

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.space == "pixel" and (self.latent.channels, self.latent.downscale) != (3, 1):
            raise ValueError("latent must have 3 channels and downscale 1 in pixel space")
        if len(self.sigma_s) not in (1, self.latent.channels):
            raise ValueError("sigma_s must be one number or one per latent channel")
        if min(self.sigma_s) < 0:
            raise ValueError("sigma_s must not be negative")
        needed = {"estimator", "velocity"} | ({"vae_encoder", "vae_decoder"} if self.space == "latent" else set())
        missing = sorted(needed - set(self.networks))
        if missing:
            raise ValueError(f"networks lacks {missing}")
        if self.default_num_steps > self.max_num_steps:
            raise ValueError("default_num_steps is above max_num_steps")
        return self


def load_manifest(repository: Path) -> Manifest:
    """Read `manifest.json` and check the hash of every file it names.

    Raises:
        ManifestMismatch: The file is absent, a field is wrong, or a network's file is absent or altered; the message
            names the field.
    """
    path = repository / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestMismatch(f"{path.absolute()} does not exist", hint=_WHERE) from error
    except OSError as error:
        raise ManifestMismatch(f"{path.absolute()}: {error.strerror}", hint=_WHERE) from error
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors())
        is_later = any(item["type"] == "extra_forbidden" for item in error.errors())
        hint = _LATER if is_later else "export the bundle again"
        raise ManifestMismatch(f"{path}: {fields}", hint=hint) from error
    for name, network in manifest.networks.items():
        file = repository / network.file
        if not file.is_file():
            raise ManifestMismatch(f"networks.{name}.file: {file} does not exist", hint="export the bundle again")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != network.sha256:
            raise ManifestMismatch(f"networks.{name}.sha256: {file} has {digest}", hint="export the bundle again")
    return manifest
