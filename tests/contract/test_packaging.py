"""What installs is what runs: the service without torch, every import declared, every declaration pinned."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"service", "export", "latent_pmrf", "loadtest", "tests"}
OF_THE_TRITON_SERVER = {"triton_python_backend_utils"}  # in the processes it starts, nowhere else

REFUSE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ImportError(f"{{name}} is not part of this environment")
sys.meta_path.insert(0, Refuse())
import {module}
"""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras):
    requirements = [*PROJECT["dependencies"]]
    for extra in extras:
        requirements += PROJECT["optional-dependencies"][extra]
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def third_party_imports(package):
    names = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                names.setdefault(module.partition(".")[0], str(path.relative_to(ROOT)))
    return {
        name: where
        for name, where in names.items()
        if name not in OWN | OF_THE_TRITON_SERVER | set(sys.stdlib_module_names)
    }


def import_without(module, forbidden):
    script = REFUSE.format(forbidden=forbidden, module=module)
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("service.cli", {"torch", "latent_pmrf", "export", "loadtest", "onnx", "onnxruntime", "fastapi", "cv2"}),
        (
            "service.composition.worker",
            {"torch", "latent_pmrf", "export", "loadtest", "onnx", "fastapi", "tritonclient", "openvino"},
        ),
        (
            "service.composition.gateway, service.local.progress",
            {"torch", "latent_pmrf", "export", "loadtest", "onnx", "tritonclient", "openvino"},
        ),
        ("service.client", {"torch", "numpy", "cv2", "PIL", "onnxruntime", "fastapi", "pydantic", "redis", "rich"}),
        ("service.batch.command", {"torch", "latent_pmrf", "export", "cv2", "PIL", "onnxruntime", "fastapi", "redis"}),
        ("service.batch.command, service.composition.gateway", {"ray", "pyarrow"}),
        ("export.detector", {"torch", "latent_pmrf", "service"}),
    ],
)
def test_imports_without(module, forbidden):
    done = import_without(module, forbidden)
    assert done.returncode == 0, done.stderr


def test_the_refusal_works():
    assert "json is not part" in import_without("service.core.errors, json.tool", {"json"}).stderr


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("service", ("triton", "ray", "openvino")),
        ("loadtest", ("train", "evaluate", "test")),
        ("export", ("train", "engines", "openvino")),
        ("latent_pmrf", ("train", "evaluate", "metrics")),
        ("tests", ("train", "evaluate", "test")),
    ],
)
def test_every_import_is_declared(package, extras):
    distributions = {"dlib": ["dlib-bin"], **metadata.packages_distributions()}  # its metadata forgets its own package
    allowed = declared(*extras)
    undeclared = {
        name: where
        for name, where in third_party_imports(package).items()
        if not allowed & {canonical(distribution) for distribution in distributions.get(name, [name])}
    }
    assert undeclared == {}


def test_every_declaration_is_pinned_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    assert declared(*PROJECT["optional-dependencies"]) - pinned == set()


def test_the_project_has_no_version_but_one():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["version"] in changelog or "## [Unreleased]" in changelog
