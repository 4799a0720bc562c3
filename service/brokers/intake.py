"""What every queue asks of those who bring work, and what it tells them when it is full."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.core.admission import told_wait_s
from service.core.errors import IdempotencyConflict, ImageTooLarge, QueueFull
from service.core.shares import OWNERS_SHARE
from service.core.types import FaceJob, Lane


def common_job(faces: Sequence[FaceJob]) -> tuple[str, Lane]:
    """Job and lane of a photo's faces.

    Raises:
        ValueError: There is no face, or they are not of one photo and lane, each once.
    """
    found = {(face.job_id, face.lane) for face in faces}
    if len(found) != 1 or len({face.face_index for face in faces}) != len(faces):
        raise ValueError("submit takes the faces of one photo and lane, each once")
    return found.pop()


def retry_after_s(seconds_per_item: float, excess_items: int) -> int:
    """When enough items should have left, given how long one took lately; 1 to 60 seconds."""
    return told_wait_s(seconds_per_item * excess_items)


def owners_share(max_photos: int) -> int:
    """How many photos of one owner may wait in a lane: with all of them in line, others are let in nevertheless."""
    return math.ceil(OWNERS_SHARE * max_photos)


def lane_full(lane: Lane, waiting: int, retry_after_s: int, *, for_owner: bool) -> QueueFull:
    """What is said where a lane has no room, or none for a further photo of this owner's."""
    if for_owner:
        detail, hint = f"photos of yours have their share of the {lane.value} lane", ", and send fewer at once"
    else:
        detail, hint = f"{waiting} photos wait in the {lane.value} lane", ""
    return QueueFull(detail, hint=f"come back after the time in Retry-After{hint}", retry_after_s=retry_after_s)


def key_conflict() -> IdempotencyConflict:
    """What is said of a key that stands for another request."""
    return IdempotencyConflict(
        "the key was used before, for another photo or other options", hint="send another Idempotency-Key"
    )


def cannot_be_kept(size_bytes: int, max_bytes: int) -> ImageTooLarge:
    """What is said of a result that is above the budget."""
    return ImageTooLarge(
        f"the result has {size_bytes} bytes, the service keeps at most {max_bytes}",
        hint="choose a smaller upscale or output_format=jpeg, or send the photo to /restore",
        result_bytes=size_bytes,
        max_result_bytes=max_bytes,
    )
