"""Where dlib's public model files lie: in the package `face_recognition_models`, which is never shipped with ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

RECOGNITION = "dlib_face_recognition_resnet_model_v1.dat"
FIVE_LANDMARKS = "shape_predictor_5_face_landmarks.dat"
SIXTY_EIGHT_LANDMARKS = "shape_predictor_68_face_landmarks.dat"


def dlib_model(name: str) -> Path:
    """Path of one of the files above.

    Raises:
        FileNotFoundError: The package is not installed, or has no such file.
    """
    # The package's own module imports pkg_resources, which recent setuptools no longer brings: take only its files.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("dlib's models come with face_recognition_models: install the extra `evaluate`")
    path = Path(spec.origin).parent / "models" / name
    if not path.is_file():
        raise FileNotFoundError(f"face_recognition_models has no {name}")
    return path
