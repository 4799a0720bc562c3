"""The commands of the documents: each is run here, in its order, or stands in a list that says why it is not."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut

from tests.processes import ROOT, service_process, until
from tests.redis_servers import RedisServer, require_binary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DOCUMENTS = ["README.md", *(f"docs/{name}.md" for name in ("BATCH", "EVALUATION", "GPU", "OPERATIONS", "SECURITY"))]
BLOCKS = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SERVERS = re.compile(r"latent-pmrf (serve|gateway|worker)\b")
READY = re.compile(rb"Restoring (photos|faces)")

#: What a command begins with, and why it is not run here.
NOT_RUN = {
    "make ": "sets an environment up, or is what runs these tests; test_readme.py sees that each exists",
    "PIP_EXTRA_INDEX_URL=": "likewise",
    "LATENT_PMRF_API_KEYS_FILE=keys.json make": "likewise; test_access_*.py serve with keys",
    "LATENT_PMRF_MODEL_REPOSITORY=": "likewise; test_imported_bundles.py serves such a bundle",
    ".venv/bin/python -m pip install": "installs from the registry",
    ".venv-dev/bin/python -m latent_pmrf.cli import": "wants public weights; test_imported_bundles.py",
    ".venv-dev/bin/python -m export.cli bundle": "takes half an hour at full size; test_imported_bundles.py",
    ".venv-dev/bin/python -m export.detector": "fetches from the registry; `make install` does the same",
    ".venv-dev/bin/python -m latent_pmrf.cli evaluate": "takes minutes; test_evaluate_command.py",
    ".venv-dev/bin/python -m export.cli half": "takes a minute; test_half_bundle.py",
    ".venv-dev/bin/python -m export.cli cost --gpu": "wants a GPU; test_cost.py",
    "docker/export.sh": "wants Docker and a GPU",
    "docker build ": "wants Docker",
    "GRAFANA_PASSWORD=": "wants Docker",
    "latent-pmrf batch photos/ restored/ --engine ray": "takes a minute; test_batch_ray.py",
    "RAY_ADDRESS=": "wants a cluster",
    "redis-server ": "test_faults_*.py start such servers",
    "tritonserver ": "test_triton_*.py start such servers",
    "kubectl ": "wants a cluster; tests/contract/test_kubernetes*.py read what is applied",
    "password=": "wants a cluster",
    "{ printf": "wants a cluster",
    "sed 's/^/  /' docker": "likewise, its second line",
    "export ": "settings for the commands around it, which are run with such settings",
}


@dataclass
class Workplace:
    """A folder with all that the commands speak of, a service, and a Redis."""

    folder: Path
    http: str
    rpc: str
    redis: str
    known: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> str:
        """Run one command of a document, with the places of this machine; returns what it wrote."""
        background = bool(SERVERS.search(command))
        done = self._serve(command) if background else self._finish(["/bin/bash", "-euo", "pipefail", "-c"], command)
        for name, pattern in {
            "ID": r'"id":\s*"([^"]+)"',
            "KEY": r"^(lpmrf_\w{8}_\S+)$",
            "3f9c1d20": r"^lpmrf_(\w{8})_",
        }.items():
            if found := re.search(pattern, done, flags=re.MULTILINE):
                self.known[name] = found[1]
        return done

    def python(self, text: str) -> str:
        """Run a program of a document."""
        return self._finish([sys.executable, "-W", "error", "-c"], text)

    def _finish(self, command: list[str], text: str) -> str:
        done = subprocess.run(
            [*command, self._here(text)],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> str:
        """Run one that serves, until it says that it does."""
        told = self.folder / "server.log"
        alone = re.sub(r"(--(?:metrics-)?port) \d+", r"\1 0", self._here(command.removesuffix("&").rstrip()))
        with told.open("wb") as log:
            child = subprocess.Popen(
                ["/bin/bash", "-c", f"exec env {alone}"], cwd=self.folder, env=self._variables, stdout=log, stderr=log
            )
        try:
            until(lambda: READY.search(told.read_bytes()) or child.poll() is not None)
            child.send_signal(signal.SIGTERM)
            assert child.wait(120) == 0, told.read_text()
        finally:
            child.kill()
            child.wait()
        return ""

    def _here(self, text: str) -> str:
        text = re.sub(r"/restorations/ID\b", f"/restorations/{self.known.get('ID')}", text)
        for theirs, ours in {
            "127.0.0.1:8000": self.http,
            "127.0.0.1:50051": self.rpc,
            "redis://127.0.0.1:6379": self.redis,
            "redis-cli ": f"redis-cli -s {self.redis.removeprefix('unix://')} ",
            "3f9c1d20": self.known.get("3f9c1d20", "3f9c1d20"),
        }.items():
            text = text.replace(theirs, ours)
        return text

    @property
    def _variables(self) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        added = {"LATENT_PMRF_REDIS_URL": self.redis} if self.known.get("shared") else {}
        return {
            **os.environ,
            "PATH": programs,
            "PYTHONPATH": str(ROOT),
            "KEY": self.known.get("KEY", ""),
            "LATENT_PMRF_GRPC_PORT": "-1",
            "PORT": "0",
            "METRICS_PORT": "0",
            **added,
        }


@pytest.fixture(scope="module")
def workplace(arithmetic_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "model_repository").symlink_to(arithmetic_bundle)
    for name in (".venv", ".venv-dev"):
        (folder / name / "bin").mkdir(parents=True)
        (folder / name / "bin" / "python").symlink_to(sys.executable)
        (folder / name / "bin" / "latent-pmrf").symlink_to(Path(sys.executable).with_name("latent-pmrf"))
    (folder / "photos").mkdir()
    picture = Image.fromarray(astronaut())
    for name in ("photo.jpg", "group.jpg", "photos/1.jpg", "photos/2.jpg"):
        picture.save(folder / name)
    redis = RedisServer(require_binary("6.2"), tmp_path_factory.mktemp("r"))
    redis.start()
    try:
        with service_process(arithmetic_bundle, folder / "service.log", grpc_port=-1) as service:
            yield Workplace(folder, f"127.0.0.1:{service.port}", service.rpc_address, redis.url)
    finally:
        redis.kill()


def commands_of(text):
    """Commands of a block, without the remarks behind them."""
    joined = text.replace("\\\n", " ")
    for line in filter(None, (re.sub(r"\s+#\s.*$", "", line).strip() for line in joined.splitlines())):
        if not line.startswith("#"):
            yield line


def is_run(command):
    return not command.startswith(tuple(NOT_RUN))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_runs(workplace, name):
    workplace.known["shared"] = "yes" if name == "docs/OPERATIONS.md" else ""
    shutil.rmtree(workplace.folder / "restored", ignore_errors=True)
    for kind, text in BLOCKS.findall((ROOT / name).read_text()):
        if kind == "python":
            if "service.client" in text:
                workplace.python(text)
            continue
        for command in filter(is_run, commands_of(text)):
            workplace.run(command)


def test_no_command_is_excused_that_is_gone():
    told = [
        command
        for name in DOCUMENTS
        for kind, text in BLOCKS.findall((ROOT / name).read_text())
        if kind == "sh"
        for command in commands_of(text)
    ]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in told)] == []
    assert sum(map(is_run, told)) > 20
