"""Who is on the picture: face embedding and landmarks by dlib's public models, for aligned crops.

    aligned crop -> fixed face box -> 5 landmarks -> 150 px chip -> 128-d embedding
                                   -> 68 (or 5) landmarks

The crops are aligned to the FFHQ template, so the box is known and no detector decides whether a blurred face counts.
The box is the median of dlib's frontal detections on the 48 clean validation faces. Landmarks are found anew on every
picture, as a recogniser would do it. The embedding distance is Euclidean; dlib calls two pictures of one person alike
below 0.6.

Model files come with the PyPI package `face_recognition_models` (needed to measure, never shipped): the embedding
and the 5 landmarks are in the public domain; the 68 landmarks were trained on iBUG 300-W, whose licence excludes
commercial use.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latent_pmrf.dlib_models import FIVE_LANDMARKS, RECOGNITION, SIXTY_EIGHT_LANDMARKS, dlib_model

U8Image = npt.NDArray[np.uint8]
F64Array = npt.NDArray[np.float64]

_BOX_512 = (95.0, 164.0, 405.0, 474.0)  # left, top, right, bottom
_REFERENCE_SIZE_PX = 512
_CHIP_SIZE_PX = 150
_CHIP_PADDING = 0.25


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies the face on one aligned crop.

    Attributes:
        embedding: (128,) float64.
        landmarks: (68, 2) or (5, 2) float64 x, y in pixels of a 512 crop, whatever the size of the picture.
    """

    embedding: F64Array
    landmarks: F64Array


def identity_distance(one: Signature, other: Signature) -> float:
    """Euclidean distance of the embeddings, 0 (same picture) to about 1.4; below 0.6 usually the same person."""
    return float(np.linalg.norm(one.embedding - other.embedding))


def angle_deg(one: F64Array, other: F64Array) -> float:
    """Angle between two embeddings (D,), 0 to 180 degrees: "Deg." of the paper for those of ArcFace.

    Raises:
        ValueError: An embedding is zero.
    """
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        raise ValueError("an embedding of zeros has no direction")
    return float(np.degrees(np.arccos(np.clip(np.dot(one, other) / lengths, -1.0, 1.0))))


def landmark_distance_px(one: Signature, other: Signature) -> float:
    """Mean distance of the landmarks, in pixels of a 512 crop."""
    return float(np.linalg.norm(one.landmarks - other.landmarks, axis=1).mean())


class FaceIdentifier:
    """Loads dlib's models once (0.1 GB, about a second); `sign` then takes some 80 ms on one core.

    Args:
        num_landmarks: 68, or 5 (corners of the eyes, base of the nose), whose model is in the public domain.

    Raises:
        ImportError: dlib is not installed.
        FileNotFoundError: `face_recognition_models` is not installed.
        ValueError: There is no model of so many landmarks.
    """

    def __init__(self, num_landmarks: int = 68) -> None:
        if num_landmarks not in (5, 68):
            raise ValueError(f"dlib finds 5 or 68 landmarks, not {num_landmarks}")
        import dlib  # deferred: an optional dependency of evaluation only

        self._dlib = dlib
        self._net = dlib.face_recognition_model_v1(str(dlib_model(RECOGNITION)))
        self._five = dlib.shape_predictor(str(dlib_model(FIVE_LANDMARKS)))
        more = num_landmarks == 68
        self._landmarks = dlib.shape_predictor(str(dlib_model(SIXTY_EIGHT_LANDMARKS))) if more else self._five

    def sign(self, image: U8Image) -> Signature:
        """Embedding and landmarks of one aligned crop.

        Args:
            image: (S, S, 3) uint8 RGB, aligned to the FFHQ template; any S, 256 and 512 are tested.

        Raises:
            ValueError: The image is not a square uint8 RGB picture.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
            raise ValueError(f"an aligned crop must be (S, S, 3) uint8, not {image.shape} {image.dtype}")
        image = np.ascontiguousarray(image)
        scale = image.shape[0] / _REFERENCE_SIZE_PX
        box = self._dlib.rectangle(*(round(edge * scale) for edge in _BOX_512))
        chip = self._dlib.get_face_chip(image, self._five(image, box), _CHIP_SIZE_PX, _CHIP_PADDING)
        points = [(point.x, point.y) for point in self._landmarks(image, box).parts()]
        embedding = np.asarray(self._net.compute_face_descriptor(chip), dtype=np.float64)
        return Signature(embedding=embedding, landmarks=np.asarray(points, dtype=np.float64) / scale)


def dlib_is_installed() -> bool:
    """Whether `FaceIdentifier` can be made here."""
    return all(importlib.util.find_spec(name) is not None for name in ("dlib", "face_recognition_models"))
