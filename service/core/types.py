"""One frozen dataclass per arrow of the pipeline.

    Upload -> DecodedImage -> Face (detect) -> AlignedFace -> FaceJob -> RestoredFace -> Restoration
                                                                  └─► FacePreview

Arrays are owned by the object that holds them and are never written to after construction. Colours are RGB
everywhere past `decode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from service.core.origin import Origin

U8Image = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]
FaceKey = tuple[str, int]
"""A queue entry: job id and face index."""


class FaceSelection(StrEnum):
    """Which of the detected faces are restored."""

    ALL = "all"  #: every face; a photo without one is an error
    LARGEST = "largest"  #: the face with the largest box
    CENTER = "center"  #: the face nearest to the centre of the photo
    ANY = "any"  #: every face; a photo without one comes back unrestored, and its report says so


class Background(StrEnum):
    """How the photo around the faces is enlarged when `upscale` > 1."""

    NONE = "none"  #: bilinear
    LANCZOS = "lanczos"


class OutputFormat(StrEnum):
    """Encodings the service reads and writes."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"


class Lane(StrEnum):
    """Queue lanes; interactive work is served first, batch work is never starved."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class FaceStatus(StrEnum):
    """What became of a detected face."""

    RESTORED = "restored"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What a caller may choose; None means the bundle's or the photo's own value.

    Meanings and ranges are told once, by the fields of the same names in `service.core.options.OptionFields`.
    """

    fidelity: float | None = None
    num_steps: int | None = None
    seed: int | None = None
    faces: FaceSelection = FaceSelection.ALL
    max_faces: int | None = None
    det_threshold: float = 0.5
    min_face_px: int = 24
    aligned: bool = False
    upscale: float = 1.0
    background: Background = Background.LANCZOS
    output_format: OutputFormat | None = None
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """The bytes of one photo as received."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A photo ready for processing, EXIF orientation applied.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16; grey photos are replicated, CMYK is converted.
        alpha: (H, W) of the same dtype, or None.
        icc_profile: The embedded profile of the pixels as they are here (None where a conversion made it void).
        exif: Serialised EXIF block without GPS, thumbnail and orientation, or None.
        source_format: Encoding of the upload.
        is_grey: The upload had one colour channel; the result is written grey again.
        png_chunks: What the file says of colours and density beside profile and EXIF: chunks of PNG, kind and body by
            turns.
        is_lossless: The upload was a WebP without loss; without a choice of quality a WebP is written so again.
    """

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    alpha: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | None
    icc_profile: bytes | None
    exif: bytes | None
    source_format: OutputFormat
    is_grey: bool
    png_chunks: bytes = b""
    is_lossless: bool = False


@dataclass(frozen=True, slots=True)
class Face:
    """One detection, in pixels of the decoded photo.

    Attributes:
        box: Left, top, right, bottom.
        landmarks_5: (5, 2) x, y of left eye, right eye, nose tip, left and right mouth corner (left as seen).
        score: Detector confidence, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks_5: F32Array
    score: float


@dataclass(frozen=True, slots=True)
class Tone:
    """How a crop's brightness stands to its photo's: `crop = gain * photo + offset`, both in [0, 1].

    Attributes:
        gain: Above 0; 1 where nothing was done.
        offset: 0 where nothing was done.
    """

    gain: float = 1.0
    offset: float = 0.0

    def undo(self, crop: F32Array) -> F32Array:
        """The photo's values of float32 ones of the crop; the same array where nothing was done."""
        if self.gain == 1.0 and self.offset == 0.0:
            return crop
        return (crop - np.float32(self.offset)) / np.float32(self.gain)


@dataclass(frozen=True, slots=True)
class AlignedFace:
    """A face brought to the template.

    Attributes:
        index: Position in the photo's report.
        face: The detection, or None for a photo that was already aligned.
        crop: (S, S, 3) RGB uint8, S the bundle's `image_size_px`.
        affine: (2, 3) float64, photo pixel centres to crop pixel centres (similarity).
        tone: How the crop's brightness stands to the photo's.
        beyond: (S, S, 3) float32, what of the photo did not fit into the crop, in [-1, 1]; None where all did.
    """

    index: int
    face: Face | None
    crop: U8Image
    affine: npt.NDArray[np.float64]
    tone: Tone = Tone()
    beyond: F32Array | None = None


@dataclass(frozen=True, slots=True)
class FaceJob:
    """A queue entry: what a worker needs to restore one face, and nothing else.

    Attributes:
        job_id: The photo's job.
        face_index: `AlignedFace.index`.
        crop: (S, S, 3) RGB uint8.
        num_steps: Euler steps.
        seed: Seed of the photo; the noise generator is seeded by (seed, face_index).
        lane: Queue lane.
        deadline_s: Unix time after which nobody waits for the result, or None.
        origin: The request that it belongs to, or None.
        preview_every: Steps between two previews of it; 0 for none.
        tone: How the crop's brightness stands to the photo's; previews are shown as the photo has it.
    """

    job_id: str
    face_index: int
    crop: U8Image
    num_steps: int
    seed: int
    lane: Lane = Lane.INTERACTIVE
    deadline_s: float | None = None
    origin: Origin | None = None
    preview_every: int = 0
    tone: Tone = Tone()

    @property
    def key(self) -> FaceKey:
        """Identifies the entry."""
        return self.job_id, self.face_index


@dataclass(frozen=True, slots=True)
class RestoredFace:
    """What a worker gives back for one FaceJob; the fidelity blend is the gateway's.

    Attributes:
        job_id: As in the FaceJob.
        face_index: As in the FaceJob.
        sample: (S, S, 3) float32 RGB in [0, 1], the end of the ODE, decoded.
        posterior_mean: (S, S, 3) float32 RGB in [0, 1], the estimator's output.
        timings_ms: Milliseconds by stage (queue_wait, estimator, vae_encoder, velocity, vae_decoder).
    """

    job_id: str
    face_index: int
    sample: F32Array
    posterior_mean: F32Array
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FacePreview:
    """Where a face that is being restored seems to arrive: small, and nobody's result.

    Attributes:
        job_id: As in the FaceJob.
        face_index: As in the FaceJob.
        steps_done: Euler steps taken.
        num_steps: Euler steps to take.
        data: A JPEG file of the face, aligned.
        matrix: a, b, c, d, e, f: the point (u, v) of the picture, both from 0 to 1, lies at pixel
            (a u + c v + e, b u + d v + f) of the photo. Empty before the gateway has seen it.
    """

    job_id: str
    face_index: int
    steps_done: int
    num_steps: int
    data: bytes
    matrix: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FaceReport:
    """What the service did with one detected face.

    Attributes:
        index: Position in the report, faces ordered by box area, largest first.
        box: Left, top, right, bottom in photo pixels.
        landmarks_5: Five (x, y) pairs, or None for an aligned photo.
        score: Detector confidence, or None for an aligned photo.
        status: Restored or skipped.
        reason: Why it was skipped (`below_min_face_px`, `not_selected`, `over_max_faces`, `degenerate_landmarks`,
            `unreliable`: the networks went astray with it), or None.
        ind_rmse: RMSE between the face, blended as asked for, and the posterior mean, on [0, 1] pixels (paper, section
            4.4).
        fidelity: The blend of a restored face: as asked for, or between the bundle's default and 1.
    """

    index: int
    box: tuple[float, float, float, float]
    landmarks_5: tuple[tuple[float, float], ...] | None
    score: float | None
    status: FaceStatus
    reason: str | None = None
    ind_rmse: float | None = None
    fidelity: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the service did with one photo.

    Attributes:
        id: The job.
        model: Bundle name and version, `name@version`.
        width: Result width in pixels.
        height: Result height in pixels.
        seed: The seed used, so that the result can be made again.
        num_steps: Euler steps used.
        fidelity: Blend that was asked for, or the bundle's default.
        faces: One entry per detected face.
        timings_ms: Milliseconds by stage file name, and `total`.
        output_format: Encoding of the result.
    """

    id: str
    model: str
    width: int
    height: int
    seed: int
    num_steps: int
    fidelity: float
    faces: tuple[FaceReport, ...]
    timings_ms: dict[str, float]
    output_format: OutputFormat


@dataclass(frozen=True, slots=True)
class Restoration:
    """The result of one photo: encoded bytes and the report."""

    data: bytes
    report: Report

    @property
    def media_type(self) -> str:
        """MIME type of `data`."""
        return f"image/{self.report.output_format.value}"
