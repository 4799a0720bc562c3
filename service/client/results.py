"""What a caller gives and gets: photos, restored photos, reports, jobs, limits.

Documents are the service's JSON. Members that this release does not know are ignored, so that a newer service can be
talked to.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from service.client.errors import RestorationError, of_problem
from service.client.options import Options

MAX_WIRE_ID_BYTES = 255
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ImageSource = bytes | bytearray | memoryview | Path | str
"""The bytes of a photo, or where they lie."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a batch.

    Attributes:
        client_id: The caller's name for it, which the answer has; no two photos that are under way may have the same.
        image: The photo, or where it lies; a file is read when its turn comes, and no earlier.
        options: The caller's choices for this photo instead of those of the batch, or None.
    """

    client_id: str
    image: ImageSource
    options: Options | None = None

    @property
    def wire_id(self) -> str:
        """Its name for the service, 1 to 255 bytes of UTF-8: a digest where the caller's is no such name."""
        encoded = self.client_id.encode(errors="surrogatepass")  # paths may be no UTF-8
        try:
            encoded.decode()
        except UnicodeDecodeError:
            fits = False
        else:
            fits = 0 < len(encoded) <= MAX_WIRE_ID_BYTES
        return self.client_id if fits else hashlib.blake2b(encoded, digest_size=16).hexdigest()

    @classmethod
    def of(cls, photo: Photo | Path | str) -> Photo:
        """A photo by itself, or by its path, which is its name, too."""
        return photo if isinstance(photo, Photo) else cls(str(photo), Path(photo))


@dataclass(frozen=True, slots=True)
class Face:
    """What the service did with one detected face.

    Attributes:
        index: Faces are ordered by the area of their box, largest first.
        box: Left, top, right, bottom, in pixels of the photo.
        landmarks_5: x, y of left eye, right eye, nose tip, left and right mouth corner; None for an aligned photo.
        score: Detector confidence, 0 to 1; None for an aligned photo.
        status: `restored` or `skipped`.
        reason: Why it was skipped, or None.
        ind_rmse: RMSE between the face, blended as asked for, and its posterior mean, on [0, 1] pixels; higher is less
            certain.
        fidelity: Its blend: as asked for, or the bundle's default and more where it was hardly degraded; None
            for a skipped one, or from a service that does not tell.
    """

    index: int
    box: tuple[float, float, float, float]
    landmarks_5: tuple[tuple[float, float], ...] | None
    score: float | None
    status: str
    reason: str | None
    ind_rmse: float | None
    fidelity: float | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the service's JSON."""
        left, top, right, bottom = document["box"]
        points = document["landmarks_5"]
        landmarks = None if points is None else tuple((x, y) for x, y in points)
        return cls(**_known(cls, document) | {"box": (left, top, right, bottom), "landmarks_5": landmarks})


@dataclass(frozen=True, slots=True)
class Report:
    """What the service did with one photo.

    Attributes:
        id: The restoration.
        model: Bundle, `name@version`.
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        output_format: Encoding of the result.
        seed: Send it again to get the same result.
        num_steps: Euler steps that were used.
        fidelity: The blend that was asked for, or the bundle's default; each face has its own.
        faces: One entry per detected face.
        timings_ms: Milliseconds by stage, and `total`.
    """

    id: str
    model: str
    width: int
    height: int
    output_format: str
    seed: int
    num_steps: int
    fidelity: float
    faces: tuple[Face, ...]
    timings_ms: dict[str, float]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the service's JSON."""
        return cls(**_known(cls, document) | {"faces": tuple(Face.of(face) for face in document["faces"])})

    def as_document(self) -> dict[str, Any]:
        """The same as JSON."""
        return dataclasses.asdict(self)

    @property
    def faces_restored(self) -> int:
        """How many faces are restored in the result."""
        return sum(face.status == "restored" for face in self.faces)


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored photo.

    Attributes:
        image: The bytes of the file.
        media_type: `image/jpeg`, `image/png` or `image/webp`.
        report: What was done; None where the service has not kept it (HTTP fetches it in a second request).
    """

    image: bytes = field(repr=False)
    media_type: str
    report: Report | None

    def save(self, path: Path | str) -> None:
        """Write the image."""
        Path(path).write_bytes(self.image)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a photo of a batch: either `restored` or `error`."""

    client_id: str
    restored: Restored | None = None
    error: RestorationError | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the faces of a photo are: step `steps_done` of `num_steps`, all faces together."""

    num_faces: int
    faces_done: int
    num_steps: int
    steps_done: int


@dataclass(frozen=True, slots=True)
class Job:
    """A restoration that nobody waits for.

    Attributes:
        id: What the other calls know it by.
        status: Where it is.
        created_at: When it was admitted; None once it has succeeded.
        expires_at: When it is forgotten; None before it has ended.
        position: Photos before it in its line; None unless it waits.
        progress: How far its faces are; None before they are known.
        error: Why it failed; None unless it did.
        report: What was done; None unless it has succeeded.
    """

    id: str
    status: JobStatus
    created_at: datetime | None = None
    expires_at: datetime | None = None
    position: int | None = None
    progress: Progress | None = None
    error: RestorationError | None = None
    report: Report | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("succeeded", "failed", "cancelled")

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the service's JSON, that of a job or that of a finished restoration."""
        error, progress = document.get("error"), document.get("progress")
        return cls(
            id=document["id"],
            status=document["status"],
            created_at=_moment(document.get("created_at")),
            expires_at=_moment(document.get("expires_at")),
            position=document.get("position"),
            progress=None if progress is None else Progress(**_known(Progress, progress)),
            error=None if error is None else of_problem(error, status=error.get("status", 0)),
            report=Report.of(document) if document["status"] == "succeeded" else None,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service accepts; names are those of `GET /v1/limits`."""

    model: str
    input_formats: tuple[str, ...]
    output_formats: tuple[str, ...]
    max_upload_bytes: int
    max_image_px: int
    min_image_side_px: int
    max_output_px: int
    max_faces: int
    max_queued_photos: int
    request_timeout_s: float
    job_timeout_s: float
    result_ttl_s: float
    webhooks: bool
    max_num_steps: int
    default_num_steps: int
    default_fidelity: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the service's JSON."""
        steps, fidelity = document["options"]["num_steps"], document["options"]["fidelity"]
        own = {
            "input_formats": tuple(document["input_formats"]),
            "output_formats": tuple(document["output_formats"]),
            "max_num_steps": steps["maximum"],
            "default_num_steps": steps["default"],
            "default_fidelity": fidelity["default"],
        }
        return cls(**_known(cls, document) | own)


def _known(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in document.items() if name in names}


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
