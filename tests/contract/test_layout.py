"""What ruff has no rule for: sizes and names of files, and that the map of the tree is complete."""

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("service", "export", "latent_pmrf", "loadtest")
CODE = (*PACKAGES, "tests")
SHARED_FACES = ROOT.parent / "shared" / "faces"

MAX_LINES = 400
MAX_LINES_OF_A_NETWORK = 500
MAX_REPOSITORY_BYTES = 48 * 1024 * 1024
BANNED_STEMS = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
DATA = {".tar", ".tgz", ".gz", ".zip", ".npz", ".npy", ".pt", ".pth", ".ckpt", ".parquet"}


def files_below(*folders):
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def shown(path):
    return str(path.relative_to(ROOT))


SOURCES = [path for path in files_below(*CODE) if path.suffix == ".py" and "_pb2" not in path.stem]  # not generated


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_file_is_short_enough_to_read_at_once(path):
    cap = MAX_LINES_OF_A_NETWORK if path.parent == ROOT / "latent_pmrf" / "nets" else MAX_LINES
    assert len(path.read_text().splitlines()) <= cap


def test_no_file_is_named_for_being_unsorted():
    assert [shown(path) for path in SOURCES if path.stem in BANNED_STEMS] == []


def test_test_files_have_unique_names():
    names = [path.name for path in files_below("tests") if path.name.startswith("test_")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_every_package_is_on_the_map():
    packages = [shown(path.parent) for path in SOURCES if path.name == "__init__.py" and path.parts[-2] != "tests"]
    architecture = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    assert [package for package in packages if f"`{package}/`" not in architecture] == []


def test_every_module_is_on_the_map_in_the_row_of_its_package():
    lines = (ROOT / "docs" / "ARCHITECTURE.md").read_text().splitlines()
    rows = {package: line for line in lines for package in re.findall(r"^\| `([\w/]+)/` \|", line)}
    modules = [path for path in SOURCES if path.parts[-1] not in {"__init__.py", "__main__.py"}]
    ours = [path for path in modules if not path.is_relative_to(ROOT / "tests")]
    assert [shown(path) for path in ours if f"`{path.name}`" not in rows[shown(path.parent)]] == []


def test_pictures_live_with_the_documentation_only():
    misplaced = [
        shown(path)
        for path in files_below(*CODE, "model_repository", "docs")
        if path.suffix.lower() in PICTURES | DATA and path.parent != ROOT / "docs" / "images"
    ]
    assert misplaced == []


def test_no_training_picture_is_in_the_repository():
    if not SHARED_FACES.is_dir():
        pytest.skip("the training faces are not on this machine")
    foreign = {hashlib.sha256(path.read_bytes()).digest() for path in SHARED_FACES.rglob("*") if path.is_file()}
    for shard in SHARED_FACES.glob("*.tar"):
        with tarfile.open(shard) as archive:
            members = (archive.extractfile(member) for member in archive if member.isfile())
            foreign.update(hashlib.sha256(member.read()).digest() for member in members if member is not None)
    ours = files_below(*CODE, "model_repository", "docs")
    assert [shown(path) for path in ours if hashlib.sha256(path.read_bytes()).digest() in foreign] == []


def test_the_weights_stay_small():
    fetched = ROOT / "model_repository" / "detector"
    sizes = [path.stat().st_size for path in files_below("model_repository") if not path.is_relative_to(fetched)]
    assert sum(sizes) <= MAX_REPOSITORY_BYTES
