"""Between the service and a decoder's process, through a pair of sockets: fixed heads, then bytes of stated length.

    Upload, DecodeLimits -> request -> child -> answer -> DecodedImage, or an error of the photo

Whoever holds a child's memory can write any answer. Hence nothing here builds objects from what it reads: a head has
numbers, each is held against its range before anything is allocated, and a refusal names one of a few errors.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from service.core.errors import (
    AnimatedImage,
    CorruptImage,
    EmptyUpload,
    ImageTooLarge,
    ImageTooSmall,
    InputError,
    UnsupportedFormat,
    UploadTooLarge,
)
from service.core.types import DecodedImage, OutputFormat, Upload
from service.stages.containers.container import MAX_ICC_BYTES
from service.stages.containers.exif import MAX_EXIF_BYTES
from service.stages.containers.png_chunks import MAX_CHUNKS_BYTES
from service.stages.decode import DecodeLimits
from service.stages.samples import Samples, read_only

MAX_TEXT_BYTES = 8192  #: of a refusal
SOCKET_BYTES = 256 * 1024  #: of a socket's buffer; larger ones leave the processors' caches and are slower

MAGIC = b"LPD1"
ANSWER = struct.Struct("<4sBBBBBBIIIIII")
NOTHING = 2**32 - 1  #: a length: there is none

_REQUEST = struct.Struct("<4sQQQQ")
_CHUNK_BYTES = 4 * 1024 * 1024
_FORMATS = tuple(OutputFormat)
_SAMPLE_BYTES = (1, 2)
_NUMBERS_TOLD = {"upload_bytes", "max_upload_bytes", "width_px", "height_px", "max_image_px", "min_side_px"}
_REFUSALS: Mapping[str, type[InputError]] = {
    error.code: error
    for error in (
        EmptyUpload,
        UploadTooLarge,
        UnsupportedFormat,
        CorruptImage,
        ImageTooLarge,
        ImageTooSmall,
        AnimatedImage,
    )
}


class Kind(IntEnum):
    """What an answer is."""

    PHOTO = 0
    REFUSAL = 1  #: an error of the photo
    NO_MEMORY = 2  #: the photo needs more than it may have
    DEFECT = 3  #: an error of ours; its traceback follows


class Ended(Exception):
    """The other side has gone before it was done."""


class Garbled(Exception):
    """The other side has written what no answer can be."""


class TooLate(Exception):
    """The other side took longer than it may."""


class Told(Exception):
    """The child lives and gives no photo.

    Attributes:
        kind: `NO_MEMORY` or `DEFECT`.
        text: What it says of it.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Head(NamedTuple):
    """Begins every answer; the lengths are those of the bytes that follow, in this order, and then the samples."""

    magic: bytes
    kind: int
    sample_bytes: int
    has_alpha: int
    format: int
    is_grey: int
    is_lossless: int
    width_px: int
    height_px: int
    icc_bytes: int
    exif_bytes: int
    png_bytes: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A connected socket, and until when it is used.

    What sends or receives raises Ended where the other side has gone, and TooLate where it takes too long.

    Attributes:
        connection: Blocking.
        ends_s: Value of `time.monotonic` after which nothing more is awaited, or None.
    """

    connection: socket.socket
    ends_s: float | None = None

    @classmethod
    def until(cls, connection: socket.socket, patience_s: float) -> Channel:
        """Use a socket for so many seconds."""
        # Not `settimeout`: it makes the socket non-blocking, and then a large message takes a call for each buffer.
        whole_s = int(patience_s)
        limit = struct.pack("ll", whole_s, int((patience_s - whole_s) * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return cls(connection, time.monotonic() + patience_s)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        view = memoryview(data).cast("B")
        while view:
            with self._one_call():
                view = view[self.connection.send(view[:_CHUNK_BYTES]) :]

    def fill(self, buffer: bytearray | memoryview) -> None:
        """Receive as many bytes as the buffer has."""
        view = memoryview(buffer).cast("B")
        while view:
            with self._one_call():
                count = self.connection.recv_into(view[:_CHUNK_BYTES], 0, socket.MSG_WAITALL)
            if count == 0:
                raise Ended
            view = view[count:]

    def take(self, count: int) -> bytes:
        """Receive so many bytes."""
        buffer = bytearray(count)
        self.fill(buffer)
        return bytes(buffer)

    @contextlib.contextmanager
    def _one_call(self) -> Iterator[None]:
        if self.ends_s is not None and time.monotonic() > self.ends_s:
            raise TooLate
        try:
            yield
        except BlockingIOError as error:
            raise TooLate from error
        except OSError as error:
            raise Ended from error


def send_request(channel: Channel, upload: Upload, limits: DecodeLimits) -> None:
    """Hand a photo to a child."""
    sizes = (len(upload.data), limits.max_upload_bytes, limits.max_image_px, limits.min_side_px)
    channel.send(_REQUEST.pack(MAGIC, *sizes))
    channel.send(upload.data)


def receive_request(channel: Channel) -> tuple[int, DecodeLimits]:
    """In a child: how many bytes the photo has, which come next, and what it may be."""
    _, size_bytes, *limits = _REQUEST.unpack(channel.take(_REQUEST.size))
    return size_bytes, DecodeLimits(*limits)


def send_photo(channel: Channel, image: DecodedImage) -> None:
    """In a child: answer with a photo."""
    height, width = image.pixels.shape[:2]
    head = Head(
        magic=MAGIC,
        kind=Kind.PHOTO,
        sample_bytes=image.pixels.dtype.itemsize,
        has_alpha=image.alpha is not None,
        format=_FORMATS.index(image.source_format),
        is_grey=image.is_grey,
        is_lossless=image.is_lossless,
        width_px=width,
        height_px=height,
        icc_bytes=NOTHING if image.icc_profile is None else len(image.icc_profile),
        exif_bytes=NOTHING if image.exif is None else len(image.exif),
        png_bytes=len(image.png_chunks),
        text_bytes=0,
    )
    channel.send(ANSWER.pack(*head))
    for part in (image.icc_profile, image.exif, image.png_chunks):
        channel.send(part or b"")
    channel.send(image.pixels.data)
    if image.alpha is not None:
        channel.send(image.alpha.data)


def send_refusal(channel: Channel, error: InputError) -> None:
    """In a child: answer with an error of the photo."""
    told = {"code": error.code, "detail": error.detail[:1000], "hint": error.hint, "extra": error.extra}
    send_text(channel, Kind.REFUSAL, json.dumps(told))


def send_text(channel: Channel, kind: Kind, text: str) -> None:
    """In a child: answer with anything but a photo."""
    data = text.encode(errors="replace")[-MAX_TEXT_BYTES:]
    channel.send(ANSWER.pack(*Head(MAGIC, kind, 0, 0, 0, 0, 0, 0, 0, NOTHING, NOTHING, 0, len(data))))
    channel.send(data)


def receive_answer(channel: Channel, limits: DecodeLimits) -> DecodedImage:
    """What a child answers to a request with these limits.

    Returns:
        Arrays that nobody else knows of, read-only.

    Raises:
        InputError: The photo's own.
        Told: The child gives no photo, for another reason.
        Ended: It has gone.
        Garbled: It does not write what an answer can be.
        TooLate: It takes too long.
    """
    head = Head._make(ANSWER.unpack(channel.take(ANSWER.size)))
    if head.magic != MAGIC:
        raise Garbled("this is no answer")
    if head.kind != Kind.PHOTO:
        if head.kind not in tuple(Kind) or head.text_bytes > MAX_TEXT_BYTES:
            raise Garbled("an answer of no known kind, or too long")
        text = channel.take(head.text_bytes).decode(errors="replace")
        if head.kind == Kind.REFUSAL:
            raise _refusal(text)
        raise Told(Kind(head.kind), text)
    _check_photo(head, limits)
    icc_profile, exif = (None if size == NOTHING else channel.take(size) for size in (head.icc_bytes, head.exif_bytes))
    png_chunks = channel.take(head.png_bytes)
    size = (head.height_px, head.width_px)
    return DecodedImage(
        pixels=_samples(channel, (*size, 3), head.sample_bytes),
        alpha=_samples(channel, size, head.sample_bytes) if head.has_alpha else None,
        icc_profile=icc_profile,
        exif=exif,
        source_format=_FORMATS[head.format],
        is_grey=bool(head.is_grey),
        is_lossless=bool(head.is_lossless),
        png_chunks=png_chunks,
    )


def _check_photo(head: Head, limits: DecodeLimits) -> None:
    sides = (head.width_px, head.height_px)
    allowed = (
        min(sides) >= max(1, limits.min_side_px)
        and head.width_px * head.height_px <= limits.max_image_px
        and head.sample_bytes in _SAMPLE_BYTES
        and {head.has_alpha, head.is_grey, head.is_lossless} <= {0, 1}
        and head.format < len(_FORMATS)
        and (head.icc_bytes == NOTHING or head.icc_bytes <= MAX_ICC_BYTES)
        and (head.exif_bytes == NOTHING or head.exif_bytes <= MAX_EXIF_BYTES)
        and head.png_bytes <= MAX_CHUNKS_BYTES
    )
    if not allowed:
        raise Garbled(f"no photo within the limits is {head.width_px} x {head.height_px}, or has such parts")


def _samples(channel: Channel, shape: tuple[int, ...], sample_bytes: int) -> Samples:
    array: Samples = np.empty(shape, np.uint8) if sample_bytes == 1 else np.empty(shape, np.uint16)
    channel.fill(array.data)
    return read_only(array)


def _refusal(text: str) -> InputError:
    try:
        told = json.loads(text)
        kind, extra = _REFUSALS[told["code"]], dict(told["extra"])
        detail, hint = (_printable(told[name]) for name in ("detail", "hint"))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Garbled("a refusal that names no error") from error
    if not all(isinstance(value, int) and name in _NUMBERS_TOLD for name, value in extra.items()):
        raise Garbled("a refusal with other values than its limits")
    return kind(detail, hint=hint, **extra)


def _printable(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError("a text was expected")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
