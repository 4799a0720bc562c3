"""Which faces of a photo are seen on their way, how often, and where on the photo they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from service.core.types import AlignedFace, FacePreview

MAX_FACES = 8
"""Of a photo that are seen on their way: the first, which are the largest."""
MAX_PREVIEWS = 32
"""Of a photo."""
MAX_OF_A_FACE = 12


def preview_every(num_steps: int, num_faces: int) -> int:
    """Steps between two previews of a face, so that neither a face nor its photo has more of them than the most."""
    most = min(MAX_OF_A_FACE, MAX_PREVIEWS // max(1, min(num_faces, MAX_FACES)))
    return math.ceil(num_steps / (most + 1))


def placing(faces: Sequence[AlignedFace], show: Callable[[FacePreview], None]) -> Callable[[FacePreview], None]:
    """What shows a preview where its face is on the photo."""
    matrices = {face.index: matrix_of(face) for face in faces}

    def placed(preview: FacePreview) -> None:
        show(replace(preview, matrix=matrices[preview.face_index]))

    return placed


def matrix_of(face: AlignedFace) -> tuple[float, ...]:
    """Where the unit square of a crop lies on the photo, as in `FacePreview.matrix`.

    Pixel centres are at whole numbers in `affine`; here the photo's first pixel reaches from 0 to 1.
    """
    back = np.linalg.inv(face.affine[:, :2])
    size_px = face.crop.shape[0]
    origin = back @ (-0.5 - face.affine[:, 2]) + 0.5
    return tuple(float(value) for value in (*(size_px * back).T.ravel(), *origin))
