"""A real Triton server, the one of NVIDIA's wheel, as tests need it: with a bundle, slow, killed and restarted.

`make triton` unpacks the wheel into an environment of its own, for it wants NumPy 1. That server has no backend for
ONNX files: `tests/triton_backend/` stands in for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest

from export.triton_config import write_configurations
from loadtest.process import held_port
from tests.processes import ROOT, until

_VENV = ROOT / ".venv-triton"
_PATIENCE_S = 300.0  # six processes that import onnxruntime, on two cores that do other things as well
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has it
_REGION_BYTES = 32 * 2**20  # of each instance of a model: more than its largest call takes
_LEAST_REGION_BYTES = 2**20
_BACKENDS = Path(__file__).parent / "triton_backend"
_ASK_PYTHON = """
import sys, sysconfig
told = sysconfig.get_config_vars()
print(told["LIBDIR"], told.get("MULTIARCH", ""), told["INSTSONAME"], "%d.%d" % sys.version_info[:2])
"""


@dataclass(frozen=True, slots=True)
class _Installed:
    """Where a server's parts lie.

    Attributes:
        packages: Site packages of its environment.
        python: Version of its interpreter, as `3.11`.
        libraries: Folder of the interpreter's shared library.
    """

    packages: Path
    python: str
    libraries: Path

    @property
    def parts(self) -> Path:
        """Folder of the program and its backends."""
        return self.packages / "pytriton" / "tritonserver"


def require_triton() -> None:
    """Skip the tests that call this where there is no server, with the reason in the summary."""
    if _installed() is None:
        pytest.skip("needs the Triton server of .venv-triton (make triton), and Python's shared library")


@functools.cache
def _installed() -> _Installed | None:
    if not (_VENV / ".installed").is_file():
        return None
    asked = subprocess.run([_VENV / "bin" / "python", "-c", _ASK_PYTHON], capture_output=True, text=True, check=True)
    folder, architecture, library, version = asked.stdout.rstrip("\n").split(" ")
    for libraries in (Path(folder), Path(folder) / architecture):
        if ".so" in library and (libraries / library).is_file():
            return _Installed(_VENV / "lib" / f"python{version}" / "site-packages", version, libraries)
    return None


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


def _region_bytes() -> int:
    """Less where there is little: it is taken at once, and servers of several tests may run."""
    return max(_LEAST_REGION_BYTES, min(_REGION_BYTES, shutil.disk_usage(_SHARED_MEMORY).free // 64))


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
        self._held = contextlib.ExitStack()
        self.port, self._http_port, self._metrics_port = (self._held.enter_context(held_port()) for _ in range(3))
        self._repository = repository
        self._options = list(options)
        self._log = folder / f"triton-{self.port}.log"
        self._child: subprocess.Popen[bytes] | None = None
        installed = _installed()
        if installed is None:
            raise RuntimeError("there is no Triton server")
        self._binary = installed.parts / "bin" / "tritonserver"
        self._backends = folder / "backends"
        if not self._backends.exists():
            stub = "triton_python_backend_stub"
            shutil.copytree(installed.parts / "backends" / "python", self._backends / "python")
            shutil.copy2(installed.parts / "python_backend_stubs" / installed.python / stub, self._backends / "python")
            shutil.copytree(_BACKENDS / "onnxruntime", self._backends / "onnxruntime")
        self._variables = {
            "PATH": f"{_VENV / 'bin'}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{installed.libraries}:{installed.packages / 'nvidia_pytriton.libs'}",
            "PYTHONPATH": str(installed.packages),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill()
        self._held.close()

    @property
    def url(self) -> str:
        """Where the service finds it."""
        return f"grpc://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """Where it answers HTTP."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def metrics_target(self) -> str:
        """Where Prometheus finds it."""
        return f"127.0.0.1:{self._metrics_port}"

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
            "--model-load-thread-count=8",
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
            # The Python backend has been seen to crash while such a region grew under calls.
            f"--backend-config=python,shm-default-byte-size={_region_bytes()}",
            *self._options,
        ]
        with self._log.open("ab") as written:
            self._child = subprocess.Popen(
                arguments, env=self._variables, stdout=written, stderr=written, start_new_session=True
            )

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

    def begun(self, model: str) -> int:
        """Executions of one model that have begun."""
        noted = self._repository / model / "begun"
        return noted.stat().st_size if noted.exists() else 0

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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It says nothing for the duration of the block, and does not hang up."""
        if self._child is None:
            raise RuntimeError("the server does not run")
        self._child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as `kill -9` does, and its Python processes, which would outlive it."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):  # all of them have ended by themselves
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None
        for left in _SHARED_MEMORY.glob(f"{self._region_prefix}*"):
            left.unlink(missing_ok=True)

    @property
    def _region_prefix(self) -> str:
        """Begins the names of the memory that the server shares with its Python processes; a number follows."""
        return f"triton-of-tests-{self.port}-"
