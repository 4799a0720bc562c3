"""Networks that the user brings for measuring, as one file with graph and weights: ONNX or TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.bundle import onnxruntime_session

F32Array = npt.NDArray[np.float32]

ONNX_SUFFIXES = frozenset({".onnx"})
TORCHSCRIPT_SUFFIXES = frozenset({".pt", ".ts", ".jit", ".torchscript"})
_ROWS_AT_ONCE = 16


class Network(Protocol):
    """Inputs (B, ...) float32 to the first output (B, ...) float32."""

    input_shape: tuple[int | None, ...]
    """Of the first input; None where a side is free or unknown, empty where nothing is known."""

    def __call__(self, *inputs: F32Array) -> F32Array:
        """Run all rows."""
        ...


def open_network(path: Path, device: str = "cpu") -> Network:
    """Load a network by the suffix of its file.

    Args:
        path: `.onnx`, run by onnxruntime, or `.pt`, `.ts`, `.jit`, `.torchscript`, run by torch.
        device: Where torch runs; onnxruntime stays on the CPU.

    Raises:
        ImportError: torch is needed and not installed.
        ValueError: The file is of another kind or damaged.
    """
    if path.suffix in ONNX_SUFFIXES:
        return _OnnxNetwork(path)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        return _TorchScriptNetwork(path, device)
    kinds = ", ".join(sorted(ONNX_SUFFIXES | TORCHSCRIPT_SUFFIXES))
    raise ValueError(f"{path}: expected one of {kinds}")


class _OnnxNetwork:
    def __init__(self, path: Path) -> None:
        try:
            self._session = cast(Any, onnxruntime_session(path.read_bytes(), 0))
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise ValueError(f"{path} is no ONNX file: {error}") from error
        self._path = path
        self._names = [value.name for value in self._session.get_inputs()]
        shape = self._session.get_inputs()[0].shape
        self.input_shape = tuple(side if isinstance(side, int) else None for side in shape)
        self._rows = (self.input_shape[0] if self.input_shape else None) or _ROWS_AT_ONCE

    def __call__(self, *inputs: F32Array) -> F32Array:
        if len(inputs) != len(self._names):
            raise ValueError(
                f"{self._path} takes {len(self._names)} inputs ({', '.join(self._names)}), not {len(inputs)}"
            )
        parts = []
        for start in range(0, len(inputs[0]), self._rows):
            feeds = {
                name: _padded(rows[start : start + self._rows], self.input_shape[:1])
                for name, rows in zip(self._names, inputs, strict=True)
            }
            count = min(self._rows, len(inputs[0]) - start)
            parts.append(np.asarray(self._session.run(None, feeds)[0], dtype=np.float32)[:count])
        return np.concatenate(parts)


class _TorchScriptNetwork:
    def __init__(self, path: Path, device: str) -> None:
        import torch  # takes seconds, and only this kind of file needs it

        self._torch = torch
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates the format that the files have
                self._module = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is no TorchScript file (a file of weights alone is .pth): {reason}") from error
        self._device = device
        self.input_shape: tuple[int | None, ...] = ()
        # NVIDIA's Inception, the usual file for FID, gives logits unless it is asked for features.
        names = {argument.name for argument in self._module.forward.schema.arguments}
        self._options = {"return_features": True} if "return_features" in names else {}

    def __call__(self, *inputs: F32Array) -> F32Array:
        parts = []
        with self._torch.inference_mode():
            for start in range(0, len(inputs[0]), _ROWS_AT_ONCE):
                rows = [self._torch.from_numpy(value[start : start + _ROWS_AT_ONCE]) for value in inputs]
                output = _first(self._module(*(value.to(self._device) for value in rows), **self._options))
                parts.append(np.atleast_1d(output.float().cpu().numpy()))
        return np.concatenate(parts)


def _first(output: Any) -> Any:  # noqa: ANN401 - a TorchScript module may return anything
    """The first tensor of what a network returns."""
    if isinstance(output, Mapping):
        return next(iter(output.values()))
    return output[0] if isinstance(output, tuple | list) else output


def _padded(rows: F32Array, fixed: tuple[int | None, ...]) -> F32Array:
    """Repeat the last row until a graph of a fixed batch is full."""
    missing = (fixed[0] or 0) - len(rows) if fixed else 0
    return rows if missing <= 0 else np.concatenate([rows, rows[-1:].repeat(missing, 0)])
