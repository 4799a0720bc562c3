"""Bundles and faces for the evaluation."""

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from latent_pmrf.evaluation.card_faces import astronaut as aligned_astronaut
from tests.bundle import write_bundle


@pytest.fixture
def make_bundle(tmp_path):
    def make(**options):
        repository = tmp_path / "bundle"
        repository.mkdir()
        return write_bundle(repository, **options)

    return make


@pytest.fixture(scope="session")
def face_512():
    """The astronaut, aligned, 512 px."""
    return aligned_astronaut(512)


@pytest.fixture(scope="session")
def val_dir(tmp_path_factory, face_512):
    """Four validation faces of two source sets at 512 px: the astronaut and brighter or mirrored versions."""
    root = tmp_path_factory.mktemp("val")
    changes = {
        "faker_000": lambda image: image,
        "faker_001": lambda image: image[:, ::-1],
        "house_002": lambda image: (image * 0.8).astype(np.uint8),
        "house_003": lambda image: (image * 0.8).astype(np.uint8)[:, ::-1],
    }
    for name, change in changes.items():
        pictures = {"clean": face_512.clean, **face_512.degraded}
        for folder, picture in pictures.items():
            (root / folder).mkdir(exist_ok=True)
            suffix = "jpg" if folder == "clean" else "png"
            Image.fromarray(change(picture)).save(root / folder / f"{name}.{suffix}", quality=95)
    return root


@pytest.fixture(scope="session")
def photo():
    """(256, 256, 3) float64 in [0, 1]."""
    return astronaut()[:256, 100:356] / 255.0
