"""A real Triton server, the one of NVIDIA's wheel, as tests need it: with a bundle, slow, killed and restarted.

`make triton` unpacks the wheel into an environment of its own, for it wants NumPy 1. That server has no backend for
ONNX files: `tests/triton_backend/` stands in for it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest

from export.triton_config import write_configurations
from tests.processes import ROOT, until

_VENV = ROOT / ".venv-triton"
_PATIENCE_S = 300.0  # six processes that import onnxruntime, on two cores that do other things as well
_BACKENDS = Path(__file__).parent / "triton_backend"
_ASK_PYTHON = "import sys, sysconfig; print(sysconfig.get_config_var('LIBDIR'), '%d.%d' % sys.version_info[:2])"


def require_triton() -> None:
    """Skip the tests that call this where there is no server, with the reason in the summary."""
    if not (_VENV / ".installed").is_file():
        pytest.skip("needs the Triton server of .venv-triton (make triton)")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def copy_repository(bundle: Path, target: Path) -> Path:
    """A bundle as a model repository of its own, with the configurations that `export` writes for it."""
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("*.pbtxt", "configs"))
    write_configurations(target, json.loads((target / "manifest.json").read_text()))
    for config in target.glob("*/config.pbtxt"):
        delay = config.with_name("delay_s")
        delay.write_text("0")
        entry = f'parameters {{ key: "test.delay_file" value {{ string_value: "{delay}" }} }}\n'
        config.write_text(config.read_text() + entry)
    return target


def only_models(*names: str) -> list[str]:
    """Options of a server that loads these networks and no others."""
    return ["--model-control-mode=explicit", *(f"--load-model={name}" for name in names)]


class TritonServer:
    """One server, for the duration of a block.

    Args:
        repository: Models to serve, all of them.
        folder: For what it writes, and its backends.
        options: More of the server's command line.
    """

    def __init__(self, repository: Path, folder: Path, options: Sequence[str] = ()) -> None:
        self.port, self._http_port, self._metrics_port = free_ports(3)
        self._repository = repository
        self._options = list(options)
        self._log = folder / f"triton-{self.port}.log"
        self._child: subprocess.Popen[bytes] | None = None
        python = _VENV / "bin" / "python"
        libraries, version = subprocess.run(
            [python, "-c", _ASK_PYTHON], capture_output=True, text=True, check=True
        ).stdout.split()
        packages = _VENV / "lib" / f"python{version}" / "site-packages"
        own = packages / "pytriton" / "tritonserver"
        self._binary = own / "bin" / "tritonserver"
        self._backends = folder / "backends"
        if not self._backends.exists():
            shutil.copytree(own / "backends" / "python", self._backends / "python")
            stub = "triton_python_backend_stub"
            shutil.copy2(own / "python_backend_stubs" / version / stub, self._backends / "python" / stub)
            shutil.copytree(_BACKENDS / "onnxruntime", self._backends / "onnxruntime")
        self._variables = {
            "PATH": f"{_VENV / 'bin'}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{libraries}:{packages / 'nvidia_pytriton.libs'}",
            "PYTHONPATH": str(packages),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where the service finds it."""
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; it may not answer yet."""
        arguments = [
            str(self._binary),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends}",
            f"--grpc-port={self.port}",
            f"--http-port={self._http_port}",
            f"--metrics-port={self._metrics_port}",
            "--grpc-address=127.0.0.1",
            "--http-address=127.0.0.1",
            "--grpc-http2-min-recv-ping-interval-without-data=5000",
            f"--backend-config=python,shm-region-prefix-name=triton{self.port}",
            *self._options,
        ]
        with self._log.open("ab") as written:
            self._child = subprocess.Popen(arguments, env=self._variables, stdout=written, stderr=written)

    def until_ready(self) -> None:
        """Wait until it serves every model."""

        def ready() -> bool:
            if self._child is None or self._child.poll() is not None:
                raise RuntimeError(f"Triton has ended: {self.log()[-4000:]}")
            try:
                return httpx.get(f"http://127.0.0.1:{self._http_port}/v2/health/ready", timeout=5).is_success
            except httpx.TransportError:
                return False

        until(ready, patience_s=_PATIENCE_S, pause_s=0.1)

    def counted(self, name: str, model: str) -> float:
        """A counter of its metrics, for one model."""
        text = httpx.get(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10).text
        found = re.findall(rf'^{name}{{[^}}]*model="{model}"[^}}]*}} (\S+)$', text, re.MULTILINE)
        return sum(map(float, found))

    @contextlib.contextmanager
    def slow(self, model: str, call_s: float) -> Iterator[None]:
        """A call of one model takes so much longer for the duration of the block."""
        delay = self._repository / model / "delay_s"
        delay.write_text(str(call_s))
        try:
            yield
        finally:
            delay.write_text("0")

    def known_regions(self) -> list[str]:
        """Names of the shared memory it was told of."""
        found = httpx.get(f"http://127.0.0.1:{self._http_port}/v2/systemsharedmemory/status", timeout=10).json()
        return [region["name"] for region in found]

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text()

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
