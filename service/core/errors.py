"""The service's error tree: what went wrong, told without HTTP or gRPC.

    ServiceError
    ├── InputError                 the caller's photo or options; trying again does not help
    │   ├── EmptyUpload            empty_upload
    │   ├── UploadTooLarge         upload_too_large
    │   ├── UnsupportedFormat      unsupported_format
    │   ├── CorruptImage           corrupt_image
    │   ├── ImageTooLarge          image_too_large
    │   ├── ImageTooSmall          image_too_small
    │   ├── AnimatedImage          animated_image
    │   ├── NoFaceFound            no_face_found
    │   ├── TooManyFaces           too_many_faces
    │   ├── InvalidOption          invalid_option
    │   ├── MalformedRequest       malformed_request
    │   ├── UnsupportedMediaType   unsupported_media_type
    │   ├── NotAcceptable          not_acceptable
    │   ├── NotFound               not_found
    │   ├── NotFinished            not_finished          retryable
    │   ├── UploadGone             upload_gone           the photo of an earlier restoration is not kept
    │   └── IdempotencyConflict    idempotency_conflict
    ├── Unauthenticated            unauthenticated       no key, or none that is known
    ├── RateLimited                rate_limited          retryable
    ├── QuotaExceeded              quota_exceeded        retryable
    ├── QueueFull                  queue_full            retryable
    ├── Draining                   draining              retryable
    ├── DependencyUnavailable      dependency_unavailable retryable
    ├── DeadlineExceeded           deadline_exceeded     retryable
    ├── Cancelled                  cancelled
    │   └── HungUp                 hung_up
    ├── ManifestMismatch           manifest_mismatch     a refusal to start
    ├── InferenceFailed            inference_failed      retryable
    └── Abandoned                  abandoned             given up after several attempts

`service.api.problems` maps every class to an HTTP status, `service.rpc.status` to one of gRPC; contract tests prove
both maps total.
"""

from __future__ import annotations

from typing import Any, ClassVar

DECODERS_KILLED = "decoders_killed"
"""In `extra` of DependencyUnavailable: processes lost over the photo, the last one killed by nobody of the service."""

FACES_LOST = "faces_lost"
"""In `extra` of DependencyUnavailable: the queue does not know the photo's faces any more."""


class ServiceError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable identifier, part of the interface.
        title: What this code means, the same words each time.
        retryable: Whether the same request may succeed later.
        come_back_s: Where an answer says after how long to try again: the seconds, unless `extra["retry_after_s"]` says
            it better.
        detail: What happened this time.
        hint: What the caller can do about it.
        extra: Values for machines (limits, counts); JSON-serialisable.
        stage: File name of the stage or network it comes from, for the log; None where that is not known.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False
    come_back_s: ClassVar[float | None] = None

    def __init__(self, detail: str, *, hint: str = "", **extra: Any) -> None:
        """Keep what a problem document needs."""
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.extra = extra
        self.stage: str | None = None

    @property
    def retry_after_s(self) -> float | None:
        """After how many seconds to try again; None where that is not said."""
        return None if self.come_back_s is None else float(self.extra.get("retry_after_s", self.come_back_s))


class InputError(ServiceError):
    """The caller's photo or options are at fault."""

    code = "invalid_input"
    title = "Invalid input"


class EmptyUpload(InputError):
    """No bytes arrived."""

    code = "empty_upload"
    title = "The upload is empty"


class UploadTooLarge(InputError):
    """More bytes than the limit."""

    code = "upload_too_large"
    title = "The upload is too large"


class UnsupportedFormat(InputError):
    """The bytes are not a JPEG, PNG or WebP file."""

    code = "unsupported_format"
    title = "The file format is not supported"


class CorruptImage(InputError):
    """The file starts well and then cannot be decoded."""

    code = "corrupt_image"
    title = "The image cannot be decoded"


class ImageTooLarge(InputError):
    """More pixels than the limit, as declared by the header."""

    code = "image_too_large"
    title = "The image has too many pixels"


class ImageTooSmall(InputError):
    """Too few pixels to hold a face."""

    code = "image_too_small"
    title = "The image is too small"


class AnimatedImage(InputError):
    """More than one frame."""

    code = "animated_image"
    title = "Animated images are not supported"


class NoFaceFound(InputError):
    """No face passed the options' thresholds."""

    code = "no_face_found"
    title = "No face was found"


class TooManyFaces(InputError):
    """More faces than the service restores in one photo."""

    code = "too_many_faces"
    title = "The photo has too many faces"


class InvalidOption(InputError):
    """An option is unknown, of the wrong type or out of range."""

    code = "invalid_option"
    title = "An option is invalid"


class MalformedRequest(InputError):
    """The request body cannot be parsed."""

    code = "malformed_request"
    title = "The request cannot be parsed"


class UnsupportedMediaType(InputError):
    """The request is not multipart/form-data."""

    code = "unsupported_media_type"
    title = "The content type is not supported"


class NotAcceptable(InputError):
    """No output format satisfies the Accept header."""

    code = "not_acceptable"
    title = "No acceptable output format"


class NotFound(InputError):
    """Unknown, expired or deleted resource."""

    code = "not_found"
    title = "Not found"


class NotFinished(InputError):
    """The job has not ended yet."""

    code = "not_finished"
    title = "The restoration has not finished"
    retryable = True
    come_back_s = 1


class UploadGone(InputError):
    """The photo of an earlier restoration is asked for again, and is not kept."""

    code = "upload_gone"
    title = "The photo is not kept"


class IdempotencyConflict(InputError):
    """An Idempotency-Key was used again for another photo or other options."""

    code = "idempotency_conflict"
    title = "The idempotency key belongs to another request"


class Unauthenticated(ServiceError):
    """The request has no API key, or one that is not known or not known any more."""

    code = "unauthenticated"
    title = "A key is needed"


class RateLimited(ServiceError):
    """Too many requests with this key in that time."""

    code = "rate_limited"
    title = "Too many requests"
    retryable = True
    come_back_s = 1


class QuotaExceeded(ServiceError):
    """The key's pixels and faces are spent until they renew."""

    code = "quota_exceeded"
    title = "The quota is spent"
    retryable = True
    come_back_s = 60


class QueueFull(ServiceError):
    """The lane has no room for this photo's faces."""

    code = "queue_full"
    title = "The queue is full"
    retryable = True
    come_back_s = 1


class Draining(ServiceError):
    """The process is shutting down and takes nothing new."""

    code = "draining"
    title = "The service is shutting down"
    retryable = True
    come_back_s = 5


class DependencyUnavailable(ServiceError):
    """A server this one needs does not answer."""

    code = "dependency_unavailable"
    title = "A dependency is unavailable"
    retryable = True
    come_back_s = 5


class DeadlineExceeded(ServiceError):
    """The work did not finish in the time the caller or the service allows."""

    code = "deadline_exceeded"
    title = "The deadline has passed"
    retryable = True


class Cancelled(ServiceError):
    """The caller withdrew the work."""

    code = "cancelled"
    title = "The work was cancelled"


class HungUp(Cancelled):
    """The caller went away before the answer; nobody is left to read this."""

    code = "hung_up"
    title = "The caller went away"


class ManifestMismatch(ServiceError):
    """The bundle does not match its manifest; the message names the field."""

    code = "manifest_mismatch"
    title = "The model bundle does not match its manifest"


class InferenceFailed(ServiceError):
    """A network call failed or produced non-finite values."""

    code = "inference_failed"
    title = "Inference failed"
    retryable = True


class Abandoned(ServiceError):
    """Every process that took the work was lost over it; it is not tried again."""

    code = "abandoned"
    title = "The work was given up"


def faces_lost() -> DependencyUnavailable:
    """What becomes of a photo whose faces the queue does not know any more."""
    detail = "the queue does not know the photo's faces any more"
    return DependencyUnavailable(detail, hint="send the photo again", **{FACES_LOST: True})


def defect() -> ServiceError:
    """What callers are told of an error that is none of the tree's; the log tells the rest."""
    return ServiceError("the service failed; the operator finds the cause in the log", hint="try again")


def same_for_another(error: ServiceError) -> ServiceError:
    """The same for another photo: who raises an error adds his frames to it, and to `extra` what his request is called.

    Callers who share one are told each other's requests, and who clears its frames ends the others' coroutines.
    """
    other = type(error)(error.detail, hint=error.hint, **error.extra)
    other.stage = error.stage
    return other


def forget_trace(error: BaseException) -> None:
    """Let go of the frames in which an error came up, and of those of its causes: they hold a photo and its pixels."""
    error.__traceback__ = error.__cause__ = error.__context__ = None


def check_upload_bytes(size_bytes: int, max_bytes: int, *, whole: bool = True) -> None:
    """Refuse an upload of too many bytes, where it is not the `whole` of it before the rest has arrived.

    Raises:
        UploadTooLarge: It has more than `max_bytes`.
    """
    if size_bytes > max_bytes:
        raise UploadTooLarge(
            f"the upload has {'' if whole else 'at least '}{size_bytes} bytes, the limit is {max_bytes}",
            hint="send a smaller file",
            max_upload_bytes=max_bytes,
            **({"upload_bytes": size_bytes} if whole else {}),
        )
