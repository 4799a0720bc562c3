"""Messages of `restoration.v1` in, the client's own types out; and photos and options the other way.

Enumerations are words here, as in HTTP's JSON: `FACE_SELECTION_ALL` is `all`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from service.client.errors import RestorationError
from service.client.options import chosen
from service.client.results import Face, Job, JobStatus, Limits, Progress, Report, Restored
from service.rpc import restoration_pb2 as pb

_ENVELOPE_BYTES = 32 * 1024  # for all that is not image bytes in a message


def options_message(options: Mapping[str, object]) -> pb.RestoreOptions:
    """The caller's choices.

    Raises:
        TypeError: A name is no option, or a value has the wrong type.
        ValueError: A word is none of those allowed, or a number does not fit into its field.
    """
    fields = pb.RestoreOptions.DESCRIPTOR.fields_by_name
    message = pb.RestoreOptions()
    for name, value in chosen(options).items():
        kind = fields[name].enum_type
        try:
            setattr(message, name, value if kind is None else _number(kind, value))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}={value!r}: {error}") from error
    return message


def fits(size_bytes: int, max_message_bytes: int) -> bool:
    """Whether an image travels in one message."""
    return size_bytes <= max_message_bytes - _ENVELOPE_BYTES


def parts_of(image: bytes, max_message_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """An image in parts that fit into messages, each with whether further ones follow; at least one."""
    part_bytes = max(1, max_message_bytes - _ENVELOPE_BYTES)
    for begin in range(0, max(1, len(image)), part_bytes):
        yield image[begin : begin + part_bytes], begin + part_bytes < len(image)


def restored_of(image: bytes, report: pb.Report) -> Restored:
    """A restored photo."""
    own = report_of(report)
    return Restored(image, f"image/{own.output_format}", own)


def report_of(report: pb.Report) -> Report:
    """What was done with a photo."""
    own = {
        "output_format": _word(pb.OutputFormat.DESCRIPTOR, report.output_format),
        "faces": tuple(_face(face) for face in report.faces),
        "timings_ms": dict(report.timings_ms),
    }
    return Report(**_members(Report, report, own))


def progress_of(progress: pb.Progress) -> Progress:
    """How far a photo is."""
    return Progress(**_members(Progress, progress, {}))


def job_of(job: pb.Job) -> Job:
    """Where a job is."""
    return Job(
        id=job.id,
        status=cast(JobStatus, _word(pb.JobStatus.DESCRIPTOR, job.status)),
        created_at=_moment(job.created_at) if job.HasField("created_at") else None,
        expires_at=_moment(job.expires_at) if job.HasField("expires_at") else None,
        position=job.position if job.HasField("position") else None,
        progress=progress_of(job.progress) if job.HasField("progress") else None,
        error=error_of(job.error) if job.HasField("error") else None,
        report=report_of(job.report) if job.HasField("report") else None,
    )


def error_of(problem: pb.Problem) -> RestorationError:
    """Why a photo was not restored, where the call goes on."""
    return RestorationError(
        problem.detail,
        code=problem.code,
        title=problem.title,
        hint=problem.hint,
        retryable=problem.retryable,
        retry_after_s=problem.retry_after.ToTimedelta().total_seconds() if problem.HasField("retry_after") else None,
        values={name: value_of(text) for name, text in problem.metadata.items()},
    )


def limits_of(limits: pb.GetLimitsResponse) -> Limits:
    """What the service accepts."""
    formats = pb.OutputFormat.DESCRIPTOR
    own = {
        "input_formats": tuple(_word(formats, known) for known in limits.input_formats),
        "output_formats": tuple(_word(formats, known) for known in limits.output_formats),
        "default_num_steps": limits.defaults.num_steps,
        "default_fidelity": limits.defaults.fidelity,
    }
    return Limits(**_members(Limits, limits, own))


def value_of(text: str) -> object:
    """A value for machines: numbers, lists and objects travel as JSON, words as they are."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _members(kind: type[Any], message: Message, own: Mapping[str, object]) -> dict[str, Any]:
    """What one of the client's types is made of: `own`, and what the message has under the same names."""
    same = {field.name for field in dataclasses.fields(kind)} - own.keys()
    return {**own, **{name: getattr(message, name) for name in same}}


def _face(face: pb.Face) -> Face:
    return Face(
        index=face.index,
        box=(face.box.left, face.box.top, face.box.right, face.box.bottom),
        landmarks_5=tuple((point.x, point.y) for point in face.landmarks_5) or None,
        score=face.score if face.HasField("score") else None,
        status=_word(pb.FaceStatus.DESCRIPTOR, face.status),
        reason=face.reason if face.HasField("reason") else None,
        ind_rmse=face.ind_rmse if face.HasField("ind_rmse") else None,
        fidelity=face.fidelity if face.HasField("fidelity") else None,
    )


def _word(kind: EnumDescriptor, number: int) -> str:
    """A value of an enumeration in words; one that a newer service has sent, as a number."""
    known = kind.values_by_number.get(number)
    return str(number) if known is None else known.name.removeprefix(_prefix(kind)).lower()


def _number(kind: EnumDescriptor, word: object) -> int:
    found = kind.values_by_name.get(f"{_prefix(kind)}{str(word).upper()}")
    if found is None or found.number == 0:
        words = ", ".join(_word(kind, value.number) for value in kind.values if value.number)
        raise ValueError(f"it is not one of {words}")
    return found.number


def _prefix(kind: EnumDescriptor) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.name).upper() + "_"


def _moment(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
