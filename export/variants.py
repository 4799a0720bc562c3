"""A bundle in another precision or for another runtime, made of an exported one, behind the gate of that precision.

    bundle -> networks in PyTorch (the reference)
           -> networks in the new form -> staged bundle -> gate -> target repository

The source is left as it was. A failed gate writes nothing to the target.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle import move_into
from export.half import Precision, emulate, half_operators, to_half
from export.manifest import write_manifest
from export.parity import compared_steps, told_steps
from export.precision import FiniteRestorer, PrecisionGate, check_precision
from export.telling import Say
from export.trained import Trained, load_trained
from export.triton_config import write_configurations
from latent_pmrf.bundle_weights import import_bundle
from latent_pmrf.evaluation.bundle import read_manifest

_DETECTOR = Path("detector/1/model.onnx")


@dataclass(frozen=True, slots=True)
class Original:
    """An exported float32 bundle, and its networks in PyTorch.

    Attributes:
        repository: Where it lies.
        manifest: Its manifest.
        trained: Its networks, with the weights that are served.
    """

    repository: Path
    manifest: Mapping[str, Any]
    trained: Trained

    @property
    def files(self) -> dict[str, bytes]:
        """Content of every network's file."""
        return {name: (self.repository / entry["file"]).read_bytes() for name, entry in self._networks.items()}

    @property
    def num_steps(self) -> int:
        """Euler steps of the bundle's default."""
        return int(self.manifest["default_num_steps"])

    @property
    def compared_steps(self) -> tuple[int, ...]:
        """Numbers of Euler steps by which variants are held against it."""
        return compared_steps(self.num_steps, int(self.manifest["max_num_steps"]))

    @property
    def _networks(self) -> Mapping[str, Any]:
        networks: Mapping[str, Any] = self.manifest["networks"]
        return networks


def load_original(repository: Path, say: Say) -> Original:
    """Read a bundle and rebuild its networks.

    Raises:
        FileNotFoundError: There is no bundle.
        ValueError: It is damaged, was not made by this project's export, or is itself in another precision.
    """
    manifest = read_manifest(repository)
    if "precision" in manifest["provenance"].get("export", {}):
        raise ValueError(f"{repository} is in another precision already: begin with the float32 bundle")
    with tempfile.TemporaryDirectory() as folder:
        import_bundle(repository, Path(folder), lambda _line: None)
        trained = load_trained(Path(folder))
    say(f"{repository}: {manifest['name']} {manifest['version']} is the reference, in PyTorch and float32")
    return Original(repository, manifest, trained)


def write_half(original: Original, target: Path, precision: Precision, gate: PrecisionGate, say: Say) -> dict[str, Any]:
    """Write the bundle with its products in half precision, for onnxruntime on a GPU.

    The gate is held twice: on an emulation, which rounds after every operator and runs anywhere, and on the files
    themselves where onnxruntime's CPU provider has kernels for the type. The manifest says what was run.

    Args:
        original: The float32 bundle.
        target: Repository to write; must not be the original's.
        precision: Of the products (`export.half`).
        gate: What must hold.
        say: Receives a line of progress now and then.

    Returns:
        The new manifest.

    Raises:
        ParityError: The gate failed; nothing was written.
        ValueError: A weight is beyond the range of the type, or the target is the original; nothing was written.
    """
    files = {name: to_half(content, precision) for name, content in original.files.items()}
    for name, content in files.items():
        counts = half_operators(content)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        say(f"{name}: {len(content) / 1e6:.2f} MB; in {precision}: {told}")
    emulated = {name: emulate(content) for name, content in files.items()}
    with staged(original, target, emulated, "model.onnx", {}) as staging:
        emulated_db = _gated(original, FiniteRestorer(staging, 1), gate)
    steps = told_steps(original.compared_steps)
    say(f"emulated, {steps}: {emulated_db:.1f} dB beside PyTorch, finite at extreme inputs")
    record: dict[str, Any] = {
        "products": precision,
        "least_psnr_db": {"emulated": round(emulated_db, 1), "onnxruntime_cpu": None},
        "num_steps": list(original.compared_steps),
        "ran_on_gpu": False,
    }
    with staged(original, target, files, "model.onnx", record) as staging:
        bundle = _on_cpu(staging)
        if bundle is None:
            say(f"not run: onnxruntime's CPU provider has no kernels for these {precision} graphs")
        else:
            cpu_db = _gated(original, bundle, gate)
            record["least_psnr_db"]["onnxruntime_cpu"] = round(cpu_db, 1)
            say(f"onnxruntime on the CPU: {cpu_db:.1f} dB beside PyTorch, finite at extreme inputs")
        return publish(staging, target, record, original, say)


@contextmanager
def staged(
    original: Original, target: Path, files: Mapping[str, bytes], file_name: str, record: Mapping[str, Any]
) -> Iterator[Path]:
    """A folder beside the target with the new networks and their manifest, gone afterwards.

    Args:
        original: Where everything else comes from.
        target: The repository to be; made if need be, for the folder lies in it.
        files: Content of every network's file.
        file_name: What it is called.
        record: What the manifest's provenance says about the precision.

    Raises:
        ValueError: The target is the original.
    """
    if target.resolve() == original.repository.resolve():
        raise ValueError(f"{target} holds the float32 bundle itself: name another folder")
    existed = target.exists()
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target))
    try:
        manifest = json.loads(json.dumps(original.manifest))
        for name, content in files.items():
            path = staging / name / "1" / file_name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            manifest["networks"][name] |= {
                "file": str(path.relative_to(staging)),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        manifest["provenance"].setdefault("export", {})["precision"] = dict(record)
        manifest["quality"] = {}  # it was measured on the float32 files
        write_manifest(staging / "manifest.json", manifest)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and not any(target.iterdir()):
            target.rmdir()


def publish(staging: Path, target: Path, record: Mapping[str, Any], original: Original, say: Say) -> dict[str, Any]:
    """Move a staged bundle that has passed its gate to its place, with Triton's files and the detector.

    What an earlier bundle left in the folders of its networks goes: Triton would find configurations of files that are
    no more.

    Returns:
        The manifest.
    """
    manifest: dict[str, Any] = json.loads((staging / "manifest.json").read_text(encoding="utf-8"))
    manifest["version"] = f"{manifest['version']}+{record['products']}"
    manifest["provenance"]["export"]["precision"] = dict(record)
    write_configurations(staging, manifest)
    detector = original.repository / _DETECTOR
    if detector.is_file():
        (staging / _DETECTOR).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(detector, staging / _DETECTOR)
    write_manifest(staging / "manifest.json", manifest)
    staged_files = {path.relative_to(staging) for path in staging.rglob("*") if path.is_file()}
    move_into(staging, target)
    for name in {path.parts[0] for path in staged_files if len(path.parts) > 1}:
        for path in (target / name).rglob("*"):
            if path.is_file() and path.relative_to(target) not in staged_files:
                path.unlink()
    say(f"{target}: {manifest['name']} {manifest['version']}")
    return manifest


def _gated(original: Original, bundle: FiniteRestorer, gate: PrecisionGate) -> float:
    return check_precision(original.trained.restorer, bundle, original.compared_steps, gate)


def _on_cpu(repository: Path) -> FiniteRestorer | None:
    """The bundle in onnxruntime on the CPU, or None where that has no kernels for its types."""
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    try:
        return FiniteRestorer(repository, 1)
    except NoKernel:
        return None
