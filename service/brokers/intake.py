"""What every queue asks of those who bring work, and what it tells them when it is full."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from service.core.errors import Cancelled, DeadlineExceeded, Draining, IdempotencyConflict, ImageTooLarge, QueueFull
from service.core.shares import OWNERS_SHARE
from service.core.types import FaceJob, Lane

_FORGET_AFTER_S = 60.0  # past the deadline; whoever still waits for results has been told long before


def common_job(faces: Sequence[FaceJob]) -> tuple[str, Lane]:
    """Job and lane of a photo's faces.

    Raises:
        ValueError: There is no face, or they are not of one photo and lane, each once.
    """
    found = {(face.job_id, face.lane) for face in faces}
    if len(found) != 1 or len({face.face_index for face in faces}) != len(faces):
        raise ValueError("submit takes the faces of one photo and lane, each once")
    return found.pop()


def interest_s(faces: Sequence[FaceJob]) -> float:
    """Seconds from now after which nobody can be interested in a photo's faces; infinite for one without a deadline."""
    left_s = max(math.inf if face.deadline_s is None else face.deadline_s - time.time() for face in faces)
    return max(0.0, left_s) + _FORGET_AFTER_S


def owners_share(max_photos: int) -> int:
    """How many photos of one owner may wait in a lane: with all of them in line, others are let in nevertheless."""
    return math.ceil(OWNERS_SHARE * max_photos)


def faces_full(waiting: int, most: int, retry_after_s: int) -> QueueFull:
    """What is said where a lane has no room for a photo's faces."""
    return QueueFull(
        f"{waiting} faces wait, there is room for {most}",
        hint="come back after the time in Retry-After",
        retry_after_s=retry_after_s,
    )


def lane_full(lane: Lane, waiting: int, retry_after_s: int, *, for_owner: bool) -> QueueFull:
    """What is said where a lane has no room, or none for a further photo of this owner's."""
    if for_owner:
        detail, hint = f"photos of yours have their share of the {lane.value} lane", ", and send fewer at once"
    else:
        detail, hint = f"{waiting} photos wait in the {lane.value} lane", ""
    return QueueFull(detail, hint=f"come back after the time in Retry-After{hint}", retry_after_s=retry_after_s)


def queue_closed() -> Draining:
    """What is said to those who bring work when no more is taken."""
    return Draining("the queue is closed", hint="try another instance")


def closed_before(what: str) -> Draining:
    """What is said to those who wait for something when the queue is closed."""
    return Draining(f"the queue was closed before {what}", hint="try another instance")


def not_queued(job_id: str) -> Cancelled:
    """What is said of faces that were withdrawn, fetched before, or never submitted."""
    return Cancelled(f"job {job_id} is not in the queue")


def not_in_time(timeout_s: float | None) -> DeadlineExceeded:
    """What is said of faces whose time is over."""
    return DeadlineExceeded(f"not every face was restored within {timeout_s:g} s")


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
