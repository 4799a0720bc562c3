"""Detected faces in, the faces that are restored out, each aligned; and what the report says about every one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.core.errors import NoFaceFound
from service.core.types import AlignedFace, DecodedImage, Face, FaceReport, FaceSelection, FaceStatus
from service.stages.align import align, align_whole
from service.stages.blend import BlendedFace

UNRELIABLE = "unreliable"
"""Reason of a face with which the networks went astray."""

Found = Sequence[tuple[Face, str | None]]
"""Detected faces, each with the reason why it is left out, or None."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A face of the report: aligned when it is to be restored, else with the reason why not.

    Attributes:
        index: Position in the report.
        face: The detection, or None for a photo that was already aligned.
        aligned: The face brought to the template, or None when it is left as it is.
        reason: Why it is left as it is, or None.
    """

    index: int
    face: Face | None
    aligned: AlignedFace | None
    reason: str | None = None


def pick_faces(image: DecodedImage, found: Found, size_px: int, *, aligned: bool) -> list[Pick]:
    """Bring the chosen faces to the template, `size_px` on a side; a photo that is `aligned` is a face by itself.

    Raises:
        InvalidOption: A photo that is said to be aligned is not square.
    """
    if aligned:
        return [Pick(0, None, align_whole(image, size_px))]
    return [_pick(image, index, face, reason, size_px) for index, (face, reason) in enumerate(found)]


def require_a_face(picks: Sequence[Pick], selection: FaceSelection) -> None:
    """Refuse a photo of which no face can be restored, unless the caller allows that.

    Raises:
        NoFaceFound: There is none.
    """
    if selection is FaceSelection.ANY or any(pick.aligned is not None for pick in picks):
        return
    reasons = sorted({pick.reason for pick in picks if pick.reason is not None})
    if UNRELIABLE in reasons:
        hint = "screens of print, scan lines and glaring colours do this; faces=any leaves such faces as they are"
    else:
        hint = "lower det_threshold or min_face_px, or send faces=any to allow a photo without one"
    seen = f"{len(picks)} seen, none could be restored: {', '.join(reasons)}" if picks else "the detector saw none"
    raise NoFaceFound(seen, hint=hint)


def report_face(pick: Pick, image: DecodedImage, blended: Mapping[int, BlendedFace]) -> FaceReport:
    """What was done with one face; `blended` has the restored ones by index."""
    height, width = image.pixels.shape[:2]
    face, done = pick.face, blended.get(pick.index)
    return FaceReport(
        index=pick.index,
        box=(0.0, 0.0, float(width), float(height)) if face is None else face.box,
        landmarks_5=None if face is None else tuple((float(x), float(y)) for x, y in face.landmarks_5),
        score=None if face is None else face.score,
        status=FaceStatus.SKIPPED if done is None else FaceStatus.RESTORED,
        reason=pick.reason,
        ind_rmse=None if done is None or pick.aligned is None else done.ind_rmse / pick.aligned.tone.gain,
        fidelity=None if done is None else done.fidelity,
    )


def _pick(image: DecodedImage, index: int, face: Face, reason: str | None, size_px: int) -> Pick:
    if reason is not None:
        return Pick(index, face, None, reason)
    try:
        return Pick(index, face, align(image, face, index, size_px))
    except ValueError:
        return Pick(index, face, None, "degenerate_landmarks")
