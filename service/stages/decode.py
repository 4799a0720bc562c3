"""Decode: Upload -> DecodedImage.

The container is read first (`service.stages.containers`), so that sizes are checked before a pixel is decoded. What the
decoders get has no metadata in it; Pillow's classes are used directly, without `Image.open`, whose bomb warning and
thresholds are process-wide settings.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from service.core.errors import (
    AnimatedImage,
    CorruptImage,
    EmptyUpload,
    ImageTooLarge,
    ImageTooSmall,
    check_upload_bytes,
)
from service.core.types import DecodedImage, OutputFormat, Upload
from service.stages.containers import exif
from service.stages.containers.container import Container
from service.stages.containers.icc import profile_for, to_srgb
from service.stages.containers.png_chunks import settled
from service.stages.containers.sniff import read_container
from service.stages.samples import Samples, as_samples, read_only

if TYPE_CHECKING:  # pydantic is not for the processes that decode
    from service.core.settings import Settings

_OPENERS: dict[OutputFormat, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    OutputFormat.JPEG: JpegImagePlugin.JpegImageFile,
    OutputFormat.PNG: PngImagePlugin.PngImageFile,
    OutputFormat.WEBP: WebPImagePlugin.WebPImageFile,
}
# What Pillow and OpenCV raise on broken data; DecompressionBombError is Pillow's own limit, far above ours.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    cv2.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a photo may be.

    Attributes:
        max_upload_bytes: Largest file.
        max_image_px: Most pixels, as the header declares them.
        min_side_px: Least width and height.
    """

    max_upload_bytes: int
    max_image_px: int
    min_side_px: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the operator allows."""
        return cls(
            max_upload_bytes=settings.max_upload_bytes,
            max_image_px=settings.max_image_px,
            min_side_px=settings.min_image_side_px,
        )


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Decoded samples before the EXIF orientation; `converted` where they are sRGB now, whatever the profile says."""

    rgb: Samples
    alpha: Samples | None
    converted: bool = False


def decode(upload: Upload, limits: DecodeLimits) -> DecodedImage:
    """Decode one photo.

    EXIF orientation is applied to pixels and alpha. Grey photos are replicated to three channels, CMYK is converted to
    sRGB by the embedded profile, palettes are resolved, 16-bit PNG stays uint16. Colours and density that are stated
    outside profile and EXIF are kept; text, XMP, GPS and thumbnails are dropped; of a multi-picture JPEG the first
    picture is taken. All arrays are read-only.

    Raises:
        InputError: As of `check_header`.
        CorruptImage: The file is truncated or broken.
    """
    return decode_picture(check_header(upload, limits))


def decode_picture(container: Container) -> DecodedImage:
    """Decode a photo of which the header has been checked.

    Raises:
        CorruptImage: The file is truncated or broken.
    """
    try:
        pixels = _decode_png16(container) if container.bit_depth == 16 else _decode_8bit(container)
    except _DECODER_ERRORS as error:
        raise CorruptImage(f"the {container.format.value} file cannot be decoded: {error}") from error
    if pixels.rgb.shape[:2] != (container.height_px, container.width_px):
        raise CorruptImage("the picture has another size than its header declares")
    turn = exif.orientation(container.exif)
    profile = profile_for(container.icc_profile, "GRAY" if container.is_grey else "RGB")
    return DecodedImage(
        pixels=read_only(_turned(pixels.rgb, turn)),
        alpha=None if pixels.alpha is None else read_only(_turned(pixels.alpha, turn)),
        icc_profile=None if pixels.converted else profile,
        exif=exif.sanitise(container.exif, turned=turn >= 5, converted=pixels.converted),
        source_format=container.format,
        is_grey=container.is_grey,
        is_lossless=container.is_lossless,
        png_chunks=settled(container.png_chunks, profiled=profile is not None, turned=turn >= 5),
    )


def check_header(upload: Upload, limits: DecodeLimits) -> Container:
    """Take the file apart without decoding a pixel, and refuse what `decode` would refuse by its header.

    Raises:
        EmptyUpload: No bytes.
        UploadTooLarge: More than `max_upload_bytes`.
        UnsupportedFormat: Not JPEG, PNG or WebP.
        AnimatedImage: An animated PNG or WebP.
        ImageTooLarge: The header declares more than `max_image_px`.
        ImageTooSmall: A side is below `min_side_px`.
        CorruptImage: The file is truncated or broken where its parts can be seen.
    """
    check_size(upload, limits)
    container = read_container(upload.data)
    _check_picture(container, limits)
    return container


def check_size(upload: Upload, limits: DecodeLimits) -> None:
    """Refuse a file without looking into it.

    Raises:
        EmptyUpload: No bytes.
        UploadTooLarge: More than `max_upload_bytes`.
    """
    size_bytes = len(upload.data)
    if not size_bytes:
        raise EmptyUpload("the upload has no bytes", hint="send the photo's bytes")
    check_upload_bytes(size_bytes, limits.max_upload_bytes)


def _check_picture(container: Container, limits: DecodeLimits) -> None:
    width_px, height_px = container.width_px, container.height_px
    if container.animated:
        raise AnimatedImage(f"the upload is an animated {container.format.value} file", hint="send one frame")
    if width_px * height_px > limits.max_image_px:
        raise ImageTooLarge(
            f"the photo has {width_px} x {height_px} pixels, the limit is {limits.max_image_px} in all",
            hint="shrink the photo",
            width_px=width_px,
            height_px=height_px,
            max_image_px=limits.max_image_px,
        )
    if min(width_px, height_px) < limits.min_side_px:
        raise ImageTooSmall(
            f"the photo has {width_px} x {height_px} pixels, each side needs at least {limits.min_side_px}",
            hint="send a larger photo",
            width_px=width_px,
            height_px=height_px,
            min_side_px=limits.min_side_px,
        )
    if container.damage is not None:
        raise CorruptImage(container.damage, hint="send the complete file")


def _decode_8bit(container: Container) -> _Pixels:
    with _OPENERS[container.format](io.BytesIO(container.stripped)) as image:
        if image.size != (container.width_px, container.height_px):
            raise CorruptImage("the picture has another size than its header declares")
        image.load()
        if image.mode == "CMYK":
            return _Pixels(as_samples(to_srgb(image, container.icc_profile)), None, converted=True)
        if image.mode == "P":
            stored = as_samples(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        else:
            stored = as_samples(image.convert("L") if image.mode == "1" else image)
    if stored.ndim == 3 and stored.shape[2] == 2:
        return _Pixels(_replicate(cv2.extractChannel(stored, 0)), as_samples(cv2.extractChannel(stored, 1)))
    if stored.ndim == 3 and stored.shape[2] == 4:
        rgb = as_samples(cv2.cvtColor(stored, cv2.COLOR_RGBA2RGB))
        return _Pixels(rgb, as_samples(cv2.extractChannel(stored, 3)))
    return _Pixels(_replicate(stored) if stored.ndim == 2 else stored, _keyed_alpha(stored, container.colour_key))


def _decode_png16(container: Container) -> _Pixels:
    """16-bit PNG through OpenCV: Pillow keeps 16 bits only of grey files without alpha."""
    stored = cv2.imdecode(np.frombuffer(container.stripped, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        raise CorruptImage("the 16-bit PNG file cannot be decoded")
    if stored.ndim == 2:
        samples = as_samples(stored)
        return _Pixels(_replicate(samples), _keyed_alpha(samples, container.colour_key))
    if stored.shape[2] == 3:
        samples = as_samples(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB))
        return _Pixels(samples, _keyed_alpha(samples, container.colour_key))
    return _Pixels(as_samples(cv2.cvtColor(stored, cv2.COLOR_BGRA2RGB)), as_samples(cv2.extractChannel(stored, 3)))


def _keyed_alpha(stored: Samples, key: tuple[int, ...] | None) -> Samples | None:
    """Alpha of a PNG that marks one colour as transparent."""
    if key is None:
        return None
    differs = stored != np.array(key if stored.ndim == 3 else key[0], stored.dtype)
    opaque = differs.any(axis=2) if stored.ndim == 3 else differs
    return as_samples(opaque.astype(stored.dtype) * stored.dtype.type(np.iinfo(stored.dtype).max))


def _replicate(grey: Samples | cv2.typing.MatLike) -> Samples:
    return as_samples(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def _turned(samples: Samples, orientation: int) -> Samples:
    """The picture the right way up, for each of the eight EXIF orientations."""
    if orientation == 1:
        return samples
    if orientation in (5, 7):
        samples = as_samples(cv2.transpose(samples))
        return samples if orientation == 5 else as_samples(cv2.rotate(samples, cv2.ROTATE_180))
    if orientation in (2, 4):
        return as_samples(cv2.flip(samples, 1 if orientation == 2 else 0))
    turns = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return as_samples(cv2.rotate(samples, turns[orientation]))
