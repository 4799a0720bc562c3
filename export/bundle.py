"""A bundle from trained weights: export, gate, manifest, Triton's files, and only then the model repository.

    Trained -> round weights -> ONNX -> gate per network -> staging folder -> gate of the pipeline -> model repository

Everything is written to a staging folder first. A failure before the last step leaves the model repository as it was;
the last step moves file by file, the manifest last, and since the manifest holds the hash of every network, whoever
reads in between finds out.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.manifest import BundleFacts, build_manifest, network_file, provenance, write_manifest
from export.networks import NETWORKS, graph_specs
from export.parity import Gate, Parity, check_network, check_pipeline, compared_steps, reference_sample, told_steps
from export.telling import Say
from export.to_onnx import to_onnx
from export.trained import Trained, round_weights
from export.triton_config import write_configurations


def write_bundle(
    trained: Trained,
    repository: Path,
    facts: BundleFacts,
    gate: Gate,
    say: Say,
) -> dict[str, Any]:
    """Export networks into a model repository.

    Args:
        trained: The networks; with `facts.half_storage` their weights are rounded in place.
        repository: Folder to write; networks of an earlier bundle are replaced, what else lies there (the detector)
            stays.
        facts: What the manifest says beside the networks.
        gate: What the bundle must hold.
        say: Receives a line of progress now and then.

    Returns:
        The manifest.

    Raises:
        ParityError: The gate failed; nothing was written.
        ValueError: The networks do not fit together, or the files are too large; nothing was written.
    """
    specs = graph_specs(trained, facts.image_size_px)
    rounding = _round(trained, facts) if facts.half_storage else 0.0
    if facts.half_storage:
        say(f"weights rounded to float16: a restored pixel moves by {rounding:.3f} levels of 8 bits (RMS)")
    properties = {"bundle": facts.name, "version": facts.version, "licence": trained.licence}
    files: dict[str, bytes] = {}
    errors: dict[str, float] = {}
    for spec in specs:
        started = time.monotonic()
        files[spec.name] = to_onnx(spec, properties)
        errors[spec.name] = check_network(spec, files[spec.name], trained.statistics, gate.relative_error)
        megabytes, seconds = len(files[spec.name]) / 1e6, time.monotonic() - started
        total = sum(map(len, files.values()))
        if total > gate.max_bytes:
            raise ValueError(f"up to {spec.name} the files take {total / 1e6:.2f} MB of {gate.max_bytes / 1e6:.2f} MB")
        say(f"{spec.name}: {megabytes:.2f} MB, relative error {errors[spec.name]:.1e}, {seconds:.0f} s")
    manifest = build_manifest(facts, trained, specs, files)
    repository.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=repository))
    try:
        for name, content in files.items():
            path = staging / network_file(name)
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        write_configurations(staging, manifest)
        write_manifest(staging / "manifest.json", manifest)
        steps = compared_steps(facts.default_num_steps, facts.max_num_steps)
        levels = check_pipeline(trained.restorer, staging, steps, gate.levels)
        say(f"pipeline, {told_steps(steps)}: a pixel differs by at most {levels:.1e} levels of 8 bits")
        manifest["provenance"] = provenance(facts, trained, Parity(errors, levels, steps, rounding))
        write_manifest(staging / "manifest.json", manifest)
        move_into(staging, repository)
        for name in NETWORKS - files.keys():
            shutil.rmtree(repository / name, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say(f"{repository}: {manifest['name']} {manifest['version']}, {total / 1e6:.2f} MB")
    return manifest


def defaults_of(facts: BundleFacts, manifest: dict[str, Any] | None) -> BundleFacts:
    """`facts` with the default steps, fidelity and limits of an earlier bundle, if there is one."""
    if manifest is None:
        return facts
    return replace(
        facts,
        default_num_steps=int(manifest["default_num_steps"]),
        default_fidelity=float(manifest["default_fidelity"]),
        max_coarse_shift=manifest.get("max_coarse_shift"),
        max_roughness=manifest.get("max_roughness"),
    )


def _round(trained: Trained, facts: BundleFacts) -> float:
    """Round the weights in place; returns the root mean square change of a restored pixel, in 8-bit levels."""
    before = reference_sample(trained.restorer, facts.image_size_px, facts.default_num_steps)
    for network in trained.networks.values():
        round_weights(network)
    after = reference_sample(trained.restorer, facts.image_size_px, facts.default_num_steps)
    return float((after.sample - before.sample).square().mean().sqrt()) * 255


def move_into(staging: Path, repository: Path) -> None:
    """Move every file of a staged bundle to its place in a repository, the manifest last."""
    found = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    for path in sorted(found, key=lambda path: path.name == "manifest.json"):
        target = repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(target)
