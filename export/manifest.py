"""Writes `manifest.json`, the contract with the service (docs/ARCHITECTURE.md), and changes its measured parts.

The schema is the service's (`service/core/manifest.py`); a contract test reads with the one what the other wrote.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.networks import GraphSpec, TensorFace
from export.parity import Parity
from export.to_onnx import BATCH, OPSET
from export.trained import Trained
from latent_pmrf.config import to_dict

SCHEMA_VERSION = 1

DATA_SOURCES: Mapping[str, str] = {
    "house, senate, gov": "CivilServiceUSA/us-house, us-senate, us-governors: repositories MIT; official portraits, "
    "mostly works of the US Government (public domain)",
    "pif": "presidential-innovation-fellows/pif-website: work of the US Government, CC0 waiver",
    "faker": "faker-js/assets-person-portrait: CC0 1.0, generated people",
    "t2i": "SelfishGene/SFHQ-T2I-dataset: MIT, generated people",
    "canada": "debruine/webmorphR.stim (DeBruine and Jones, 2017, figshare 4220517): CC BY 4.0",
    "wiki": "voteview/member_photos, images from Wikipedia: mostly public domain (works of the US Government, or "
    "published before 1931)",
}
"""Where the training faces come from and under which terms, as stated by the data folder's README."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What a manifest says that the networks do not.

    Attributes:
        name: Bundle name.
        version: Bundle version.
        image_size_px: Side of the face crops.
        default_num_steps: What the service uses when nobody asks for another number.
        max_num_steps: Most steps the service allows.
        default_fidelity: As `default_num_steps`; 0 is the sample, 1 the posterior mean.
        max_coarse_shift: How far the networks may move a face's coarse brightness or colour, of 1, before the service
            takes them to have gone astray and leaves the face as it is; None asks for no such check. Validation faces,
            severely degraded ones too, say what is ordinary.
        max_roughness: How much of the finest detail the estimator may leave on the skin, of 1, before the service
            smooths the face and asks again; None asks for no such check. Sharp photographs say what is ordinary.
        max_batch_size: Most rows of one network call.
        batch_sizes: Numbers of rows that a call may have, ascending up to `max_batch_size`; None allows any.
        half_storage: Weights are stored in half precision.
    """

    name: str = "latent-pmrf-s"
    version: str = "0.1.0"
    image_size_px: int = 512
    default_num_steps: int = 10
    max_num_steps: int = 100
    default_fidelity: float = 0.5
    max_coarse_shift: float | None = None
    max_roughness: float | None = None
    max_batch_size: int = 16
    batch_sizes: tuple[int, ...] | None = None
    half_storage: bool = True

    def __post_init__(self) -> None:
        """Refuse what the service would refuse."""
        if not 0 < self.default_num_steps <= self.max_num_steps:
            raise ValueError(f"num_steps must be 1 to {self.max_num_steps}, not {self.default_num_steps}")
        if not 0 <= self.default_fidelity <= 1:
            raise ValueError(f"fidelity must be 0 to 1, not {self.default_fidelity}")
        for name in ("max_coarse_shift", "max_roughness"):
            if (limit := getattr(self, name)) is not None and not 0 < limit <= 1:
                raise ValueError(f"{name} must be above 0, and at most 1, not {limit}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, not {self.max_batch_size}")
        sizes = self.batch_sizes
        if sizes is not None and (list(sizes) != sorted({*sizes, self.max_batch_size}) or min(sizes) < 1):
            raise ValueError(f"batch sizes must ascend from 1 or more to {self.max_batch_size}, not {list(sizes)}")


def build_manifest(
    facts: BundleFacts, trained: Trained, specs: tuple[GraphSpec, ...], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """The manifest of freshly exported graphs; provenance and quality are still empty.

    Args:
        facts: See there.
        trained: The networks.
        specs: Their graphs.
        files: Content of every graph's file, by name.
    """
    statistics = trained.statistics
    return {
        "schema_version": SCHEMA_VERSION,
        "name": facts.name,
        "version": facts.version,
        "space": trained.space,
        "image_size_px": facts.image_size_px,
        "latent": {
            "channels": trained.velocity.config.in_channels,
            "downscale": 1 if trained.vae is None else trained.vae.config.downscale,
            "mean": list(statistics.mean),
            "std": list(statistics.std),
        },
        "sigma_s": list(statistics.sigma_s),
        "default_num_steps": facts.default_num_steps,
        "max_num_steps": facts.max_num_steps,
        "default_fidelity": facts.default_fidelity,
        "max_coarse_shift": facts.max_coarse_shift,
        "max_roughness": facts.max_roughness,
        "networks": {
            spec.name: {
                "file": network_file(spec.name),
                "sha256": hashlib.sha256(files[spec.name]).hexdigest(),
                "inputs": [_tensor(face) for face in spec.inputs],
                "outputs": [_tensor(spec.output)],
                "max_batch_size": facts.max_batch_size,
                "batch_sizes": None if facts.batch_sizes is None else list(facts.batch_sizes),
            }
            for spec in specs
        },
        "provenance": {},
        "quality": {},
    }


def network_file(name: str) -> str:
    """Path of a network in the model repository (Triton's layout)."""
    return f"{name}/1/model.onnx"


def provenance(facts: BundleFacts, trained: Trained, parity: Parity) -> dict[str, Any]:
    """Where the weights come from, how they were made, and what the gate measured."""
    return {
        "licence": trained.licence,
        "commit": _commit(),
        "data": {} if all("imported" in recipe for recipe in trained.recipes.values()) else dict(DATA_SOURCES),
        "recipe": {stage: dict(recipe) for stage, recipe in trained.recipes.items()},
        "networks": {
            stage: to_dict(network.config) | {"parameters": sum(value.numel() for value in network.parameters())}
            for stage, network in trained.networks.items()
        },
        "export": {
            "opset": OPSET,
            "weights": "rounded to float16, computed in float32" if facts.half_storage else "float32",
            "parity_relative_error": {name: float(f"{error:.1e}") for name, error in parity.relative_error.items()},
            "parity_pipeline_levels": float(f"{parity.levels:.1e}"),
            "parity_pipeline_num_steps": list(parity.num_steps),
            "rounding_rms_levels": float(f"{parity.rounding_levels:.1e}"),
            "tools": {
                name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")
            },
        },
    }


def set_defaults(
    repository: Path, *, num_steps: int | None = None, fidelity: float | None = None, quality: Path | None = None
) -> dict[str, Any]:
    """Write defaults and measured quality into an existing manifest, in one step.

    Args:
        repository: The bundle.
        num_steps: Default number of steps; None takes what `quality` recommends; without it, the present one stays.
        fidelity: Default fidelity; likewise.
        quality: `results.json` of `make evaluate` for these very networks. Its rows become the manifest's quality; rows
            of the default output only if they were measured with the defaults that the manifest has afterwards.

    Returns:
        The manifest as it is now.

    Raises:
        ValueError: A value is out of range, or the results belong to other networks, or they recommend nothing and a
            value is missing; nothing is written.
        FileNotFoundError: There is no manifest or no such file.
    """
    path = repository / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    results = None if quality is None else json.loads(quality.read_text(encoding="utf-8"))
    if results is not None:
        hashes = {name: network["sha256"] for name, network in manifest["networks"].items()}
        if results["bundle"].get("networks") != hashes:
            raise ValueError(f"{quality} was not measured on the networks of {repository}: run make evaluate again")
        if num_steps is None or fidelity is None:
            choice = _recommended(results, quality)
            num_steps = choice["num_steps"] if num_steps is None else num_steps
            fidelity = choice["fidelity"] if fidelity is None else fidelity
    if num_steps is not None:
        manifest["default_num_steps"] = num_steps
    if fidelity is not None:
        manifest["default_fidelity"] = fidelity
    BundleFacts(
        default_num_steps=manifest["default_num_steps"],
        max_num_steps=manifest["max_num_steps"],
        default_fidelity=manifest["default_fidelity"],
    )
    if results is not None:
        manifest["quality"] = _quality(results, manifest)
    write_manifest(path, manifest)
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _recommended(results: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """The choice of a measurement that looked at everything a default has to hold."""
    choice: dict[str, Any] = results["choice"]
    if choice["num_steps"] is None:
        raise ValueError(f"{path} recommends no defaults, for no blend holds what one must: give steps and fidelity")
    if any(row["identity"] is None for row in results["rows"]):
        raise ValueError(f"{path} was measured without identity, which a default must hold: give steps and fidelity")
    return choice


def _quality(results: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    measured = (results["default"]["num_steps"], results["default"]["fidelity"])
    current = measured == (manifest["default_num_steps"], manifest["default_fidelity"])
    return {
        "faces": results["faces"],
        "seeds": results["seeds"],
        "rows": [row for row in results["rows"] if current or row["method"] != "default"],
    }


def _tensor(face: TensorFace) -> dict[str, Any]:
    bounds = None if face.range is None else list(face.range)
    return {"name": face.name, "dtype": "float32", "shape": [BATCH, *face.shape], "range": bounds}


def _commit() -> str:
    """The commit of this tree, `+changes` where it was not clean, `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()  # noqa: S603 - no shell
        except (OSError, subprocess.SubprocessError):
            return None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../latent_pmrf", "../export")
    return f"{commit}+changes" if changed else commit
