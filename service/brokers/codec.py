"""What travels between processes, as bytes: msgpack maps with a version and a kind.

    FaceJob, RestoredFace, FacePreview, PhotoJob, Restoration, Report, Progress, Notice, Origin, Failure  <->  bytes

A reader takes its own version only. A field may be added without a new version where older readers may pass it over.
Pixels of a RestoredFace travel as 16-bit numbers: what arrives differs by at most 1/131070 (half a step) and the
rounding of float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple
from functools import cache
from typing import Any, TypeVar, cast

import msgpack
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from service.core.errors import ServiceError
from service.core.jobs import Failure, Notice, PhotoJob, Progress
from service.core.origin import Origin
from service.core.types import F32Array, FaceJob, FacePreview, Lane, Report, Restoration, RestoredFace, Tone

VERSION = 1
_U16_MAX = 65535

Message = FaceJob | RestoredFace | FacePreview | PhotoJob | Restoration | Report | Progress | Notice | Origin | Failure
_Fields = Mapping[str, Any]
_M = TypeVar("_M", FaceJob, RestoredFace, FacePreview, PhotoJob, Restoration, Report, Progress, Notice, Origin, Failure)


def encode(message: Message) -> bytes:
    """Bytes that `decode` turns into an equal message; pixels of a RestoredFace are brought into [0, 1]."""
    fields: _Fields
    if isinstance(message, FaceJob):
        origin = None if message.origin is None else asdict(message.origin)
        pixels = {"crop": message.crop.tobytes(), "shape": message.crop.shape}
        fields = {**_attributes(message), **pixels, "origin": origin, "tone": astuple(message.tone)}
    elif isinstance(message, RestoredFace):
        pictures = {"sample": _to_u16(message.sample), "posterior_mean": _to_u16(message.posterior_mean)}
        fields = {**_attributes(message), **pictures, "shape": message.sample.shape}
    else:
        fields = asdict(message)
    packed: bytes = msgpack.packb({"version": VERSION, "kind": type(message).__name__, **fields})
    return packed


def decode(kind: type[_M], data: bytes) -> _M:
    """Read a message of this kind.

    Raises:
        ServiceError: The bytes are of another version or another kind, or damaged.
    """
    try:
        fields = msgpack.unpackb(data)
        version, found = fields["version"], fields["kind"]
    except (ValueError, TypeError, LookupError) as error:
        raise ServiceError(f"the queue holds {len(data)} bytes that are no {kind.__name__}") from error
    if (version, found) != (VERSION, kind.__name__):
        raise ServiceError(
            f"the queue holds a {found} of version {version}; this process reads {kind.__name__} of version {VERSION}",
            hint="gateways and workers must be of one release",
        )
    try:
        built = _build(kind, fields)
    except (ValueError, TypeError, LookupError) as error:  # pydantic's errors are ValueErrors
        raise ServiceError(f"the queue holds a damaged {kind.__name__}") from error
    return cast(_M, built)


def _build(kind: type[Message], fields: _Fields) -> Message:
    if kind is FaceJob:
        return _face_job(fields)
    return _restored_face(fields) if kind is RestoredFace else _adapters()[kind].validate_python(fields)


@cache
def _adapters() -> Mapping[type[Message], TypeAdapter[Any]]:
    """Of messages without arrays; what they were is written in their types."""
    kinds = (FacePreview, PhotoJob, Restoration, Report, Progress, Notice, Origin, Failure)
    return {kind: TypeAdapter(kind) for kind in kinds}


def _face_job(fields: _Fields) -> FaceJob:
    return FaceJob(
        job_id=fields["job_id"],
        face_index=fields["face_index"],
        crop=np.frombuffer(fields["crop"], np.uint8).reshape(fields["shape"]),
        num_steps=fields["num_steps"],
        seed=fields["seed"],
        lane=Lane(fields["lane"]),
        deadline_s=fields["deadline_s"],
        origin=_origin(fields.get("origin")),
        preview_every=fields.get("preview_every", 0),
        tone=Tone(*fields.get("tone", ())),
    )


def _origin(fields: _Fields | None) -> Origin | None:
    """Senders before it was added leave it out; what later ones add to it is passed over."""
    return None if fields is None else cast(Origin, _adapters()[Origin].validate_python(fields))


def _restored_face(fields: _Fields) -> RestoredFace:
    return RestoredFace(
        job_id=fields["job_id"],
        face_index=fields["face_index"],
        sample=_from_u16(fields["sample"], fields["shape"]),
        posterior_mean=_from_u16(fields["posterior_mean"], fields["shape"]),
        timings_ms=fields["timings_ms"],
    )


def _attributes(message: FaceJob | RestoredFace) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


def _to_u16(pixels: F32Array) -> bytes:
    scaled = np.clip(pixels, 0.0, 1.0) * np.float32(_U16_MAX)
    rounded: npt.NDArray[np.uint16] = np.rint(scaled, out=scaled).astype("<u2")
    return rounded.tobytes()


def _from_u16(data: bytes, shape: list[int]) -> F32Array:
    pixels: npt.NDArray[np.uint16] = np.frombuffer(data, "<u2").reshape(shape)
    return pixels.astype(np.float32) / np.float32(_U16_MAX)
