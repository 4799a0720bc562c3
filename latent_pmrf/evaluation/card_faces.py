"""The faces that a committed picture may show: generated people (CC0) and one photograph of NASA (public domain).

Photographs of the validation people are measured but never copied into the repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from latent_pmrf.data.degradation import Degradation
from latent_pmrf.evaluation.dataset import ValidationFace
from latent_pmrf.evaluation.folders import shrink
from latent_pmrf.evaluation.template import FFHQ_512, REFERENCE_SIZE_PX, similarity

U8Image = npt.NDArray[np.uint8]

GENERATED_SETS = frozenset({"faker", "t2i"})

# Left and right eye, nose tip, left and right mouth corner in `skimage.data.astronaut()`, by dlib's 68 landmarks.
_ASTRONAUT_LANDMARKS_5 = ((203.2, 101.5), (246.5, 104.2), (225.0, 127.0), (201.0, 139.0), (246.0, 141.0))
# Typical members of the validation set's two ranges.
_DEGRADATIONS: Mapping[str, Degradation] = {
    "moderate": Degradation(
        sigma=(2.2, 2.2), theta=0.0, downsample=3.5, noise_sigma=6.0, jpeg_quality=65, gray=False, noise_seed=1
    ),
    "severe": Degradation(
        sigma=(8.0, 8.0), theta=0.0, downsample=13.0, noise_sigma=13.0, jpeg_quality=45, gray=False, noise_seed=2
    ),
}


def generated_faces(faces: Sequence[ValidationFace], count: int) -> list[int]:
    """Indices of up to `count` generated people, spread evenly over those there are."""
    indices = [index for index, face in enumerate(faces) if face.source_set in GENERATED_SETS]
    if len(indices) <= count:
        return indices
    return [indices[round(position)] for position in np.linspace(0, len(indices) - 1, count)]


def astronaut(size_px: int) -> ValidationFace:
    """scikit-image's astronaut, aligned and degraded at both levels with fixed seeds.

    The face is about 150 px wide in the photograph, so that the clean crop of 256 px is itself a little soft.
    """
    from skimage.data import astronaut as photograph  # deferred: an optional dependency of evaluation

    matrix = similarity(np.asarray(_ASTRONAUT_LANDMARKS_5), FFHQ_512)
    side = (REFERENCE_SIZE_PX, REFERENCE_SIZE_PX)
    crop = cv2.warpAffine(photograph(), matrix, side, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    clean = np.asarray(crop, dtype=np.uint8)
    return ValidationFace(
        name="astronaut",
        source_set="nasa",
        clean=shrink(clean, size_px),
        degraded={level: shrink(item.at_reference(clean), size_px) for level, item in _DEGRADATIONS.items()},
    )
