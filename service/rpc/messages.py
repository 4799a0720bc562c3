"""The service's own types in, messages of `restoration.v1` out; and options the other way.

Names are the same on both sides, and so are the words of enumerations: `FaceSelection.ALL` is `FACE_SELECTION_ALL`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from service.core.errors import EmptyUpload, check_upload_bytes
from service.core.jobs import JobStatus, Progress
from service.core.manifest import Manifest
from service.core.options import OptionFields, OptionLimits, check_options
from service.core.settings import Settings
from service.core.types import FaceReport, OutputFormat, Report, RestoreOptions, Upload
from service.rpc import restoration_pb2 as pb
from service.rpc.status import problem_of

_FROM_SETTINGS = set(pb.GetLimitsResponse.DESCRIPTOR.fields_by_name) & set(Settings.model_fields)
_ENVELOPE_BYTES = 1024  # for all in a message that is neither image nor report


def upload_of(data: bytes, max_bytes: int) -> Upload:
    """A photo that has arrived.

    Raises:
        EmptyUpload: It has no bytes.
        UploadTooLarge: It has more than `max_bytes`.
    """
    if not data:
        raise EmptyUpload("the image has no bytes", hint="was the file read?")
    check_upload_bytes(len(data), max_bytes)
    return Upload(data)


def options_of(message: pb.RestoreOptions, limits: OptionLimits) -> RestoreOptions:
    """The caller's choices; what is left out is the default.

    Raises:
        InvalidOption: A value is wrong; `extra` holds the option and what is allowed.
    """
    fields = {descriptor.name: _value(descriptor, value) for descriptor, value in message.ListFields()}
    options = OptionFields.read(fields).to_options()
    check_options(options, limits)
    return options


def report_of(report: Report, expires_s: float | None) -> pb.Report:
    """What was done with a photo, and until when that can be fetched, if it was kept."""
    return pb.Report(
        id=report.id,
        model=report.model,
        width=report.width,
        height=report.height,
        output_format=_format(report.output_format),
        seed=report.seed,
        num_steps=report.num_steps,
        fidelity=report.fidelity,
        faces=[_face(face) for face in report.faces],
        timings_ms=report.timings_ms,
        expires_at=None if expires_s is None else _moment(expires_s),
    )


def progress_of(progress: Progress) -> pb.Progress:
    """How far a photo is."""
    return pb.Progress(**asdict(progress))


def job_of(status: JobStatus) -> pb.Job:
    """A job, and its report once it has succeeded."""
    return pb.Job(
        id=status.job_id,
        status=pb.JobStatus.Value(f"JOB_STATUS_{status.state.name}"),
        created_at=_moment(status.created_s),
        expires_at=None if status.expires_s is None else _moment(status.expires_s),
        position=status.position,
        progress=None if status.progress is None else progress_of(status.progress),
        error=None if status.failure is None else problem_of(status.failure.to_error()),
        report=None if status.report is None else report_of(status.report, status.expires_s),
    )


def limits_of(settings: Settings, manifest: Manifest, *, max_window: int) -> pb.GetLimitsResponse:
    """What the service accepts."""
    fields = OptionFields(fidelity=manifest.default_fidelity, num_steps=manifest.default_num_steps)
    defaults = pb.RestoreOptions()
    for name, value in fields:
        if value is not None:
            setattr(defaults, name, _number(name, value) if isinstance(value, StrEnum) else value)
    formats = [_format(known) for known in OutputFormat]
    return pb.GetLimitsResponse(
        model=f"{manifest.name}@{manifest.version}",
        input_formats=formats,
        output_formats=formats,
        webhooks=settings.webhook_secret is not None,
        max_num_steps=manifest.max_num_steps,
        defaults=defaults,
        max_message_bytes=settings.grpc_max_message_bytes,
        max_window=max_window,
        **{name: getattr(settings, name) for name in _FROM_SETTINGS},
    )


def parts_of(data: bytes, report: pb.Report, max_message_bytes: int) -> Iterator[bytes]:
    """An image in parts that each fit into a message; the first, which may be empty, together with its report."""
    room_bytes = max_message_bytes - _ENVELOPE_BYTES
    begin = max(0, room_bytes - report.ByteSize())
    yield data[:begin]
    for at in range(begin, len(data), room_bytes):
        yield data[at : at + room_bytes]


def _face(face: FaceReport) -> pb.Face:
    left, top, right, bottom = face.box
    return pb.Face(
        index=face.index,
        box=pb.Box(left=left, top=top, right=right, bottom=bottom),
        landmarks_5=[pb.Point(x=x, y=y) for x, y in face.landmarks_5 or ()],
        score=face.score,
        status=pb.FaceStatus.Value(f"FACE_STATUS_{face.status.name}"),
        reason=face.reason,
        ind_rmse=face.ind_rmse,
        fidelity=face.fidelity,
    )


def _format(known: OutputFormat) -> pb.OutputFormat.ValueType:
    return pb.OutputFormat.Value(f"OUTPUT_FORMAT_{known.name}")


def _moment(unix_s: float) -> Timestamp:
    """A time as clients see it, in whole seconds."""
    return Timestamp(seconds=round(unix_s))


def _value(field: FieldDescriptor, value: object) -> object:
    """An option as text fields have it: words for enumerations; one that is not known is left for the check."""
    if field.enum_type is None or not isinstance(value, int):
        return value
    known = field.enum_type.values_by_number.get(value)
    return str(value) if known is None else known.name.removeprefix(_prefix(field.enum_type)).lower()


def _number(option: str, word: StrEnum) -> int:
    kind = pb.RestoreOptions.DESCRIPTOR.fields_by_name[option].enum_type
    if kind is None:
        raise ValueError(f"{option} is no enumeration")
    return kind.values_by_name[f"{_prefix(kind)}{word.name}"].number


def _prefix(kind: EnumDescriptor) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.name).upper() + "_"
