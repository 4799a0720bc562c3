"""Encode: DecodedImage -> bytes of a JPEG, PNG or WebP file."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
from PIL import Image

from service.core.errors import InvalidOption
from service.core.types import DecodedImage, OutputFormat, U8Image
from service.stages.containers.icc import grey_light, profile_for
from service.stages.containers.jpeg_writer import write_jpeg
from service.stages.containers.png_chunks import jfif_density
from service.stages.containers.png_colour import profile_of_chunks
from service.stages.containers.png_writer import write_png
from service.stages.light import on_curve
from service.stages.samples import Samples, as_samples, to_8bit

_MAX_SIDE_PX = {OutputFormat.JPEG: 65_500, OutputFormat.WEBP: 16_383}
_FULL_COLOUR_QUALITY = 90  # from here on JPEG keeps the colour planes at full resolution
_QUALITY = 95
_BAND_ROWS = 64
_WEBP_EFFORT = 2  # 0 to 6; above, files shrink by a few per cent while the time doubles
_WEBP_LOSSLESS_EFFORT = 25  # 0 to 100; above, files shrink by no per cent while the time doubles


def encode(image: DecodedImage, output_format: OutputFormat, quality: int | None = None) -> bytes:
    """Write a picture with its profile and EXIF block.

    PNG keeps everything: 16 bits, alpha, one channel for grey photos, the chunks that state colours and density. In
    JPEG and WebP a profile states the same colours, where one can; JPEG keeps the density. JPEG and WebP hold 8 bits,
    so 16-bit samples are rounded. JPEG has no alpha: transparent photos are laid over white, which happens only when a
    caller asks for JPEG, as no JPEG upload has alpha. WebP has no grey and no grey profiles: such photos are converted
    to sRGB by their profile's curve; what has none is taken for sRGB.

    Args:
        image: The picture; not changed.
        output_format: Encoding.
        quality: 1 to 100 for JPEG and WebP, without meaning for PNG; None is 95, or lossless WebP for a photo that was.

    Raises:
        InvalidOption: The format cannot hold a picture of this size.
    """
    lossless = quality is None and image.is_lossless
    quality = _QUALITY if quality is None else quality
    height, width = image.pixels.shape[:2]
    check_sides(width, height, output_format)
    if output_format is OutputFormat.PNG:
        return write_png(_stacked(image), image.icc_profile, image.exif, image.png_chunks)
    stated = profile_of_chunks(image.png_chunks, grey=image.is_grey)
    image = dataclasses.replace(image, icc_profile=stated or image.icc_profile)
    if output_format is OutputFormat.JPEG:
        return _jpeg(image, quality)
    return _webp(image, _WEBP_LOSSLESS_EFFORT if lossless else quality, lossless=lossless)


def check_sides(width: int, height: int, output_format: OutputFormat) -> None:
    """Refuse what a format cannot hold, if it need be before there are pixels.

    Raises:
        InvalidOption: A side is too long.
    """
    limit_px = _MAX_SIDE_PX.get(output_format, max(width, height))
    if max(width, height) > limit_px:
        raise InvalidOption(
            f"a {output_format.value} file holds at most {limit_px} pixels a side, the result has {width} x {height}",
            hint="ask for another output_format or a smaller upscale",
            option="output_format",
        )


def _jpeg(image: DecodedImage, quality: int) -> bytes:
    colour = to_8bit(_colour(image))
    if image.alpha is not None:
        colour = _over_white(colour, to_8bit(image.alpha))
    return write_jpeg(
        colour,
        quality,
        full_colour=quality >= _FULL_COLOUR_QUALITY,
        icc_profile=image.icc_profile,
        exif=image.exif,
        density=jfif_density(image.png_chunks),
    )


def _webp(image: DecodedImage, quality: int, *, lossless: bool) -> bytes:
    pixels, profile = to_8bit(image.pixels), image.icc_profile
    if profile is not None and profile_for(profile, "GRAY") is not None:
        light = grey_light(profile)
        if light is not None:
            pixels = np.asarray(cv2.LUT(pixels, np.rint(on_curve(light) * 255).astype(np.uint8)), np.uint8)
        profile = None
    if image.alpha is not None:
        pixels = np.dstack([pixels, to_8bit(image.alpha)])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer,
        "WEBP",
        lossless=lossless,
        quality=quality,  # of lossless files: how hard is looked for a small one
        method=_WEBP_EFFORT,
        exact=True,
        icc_profile=profile,
        exif=image.exif or b"",
    )
    return buffer.getvalue()


def _colour(image: DecodedImage) -> Samples:
    """(H, W) for a grey photo, else (H, W, 3)."""
    return as_samples(image.pixels[:, :, 0]) if image.is_grey else image.pixels


def _stacked(image: DecodedImage) -> Samples:
    """(H, W, 1 to 4): colour or grey, and alpha."""
    planes = as_samples(image.pixels[:, :, :1]) if image.is_grey else image.pixels
    if image.alpha is None:
        return planes
    return as_samples(np.dstack([planes, image.alpha]))


def _over_white(colour: U8Image, alpha: U8Image) -> U8Image:
    laid = np.empty_like(colour)
    for top in range(0, len(colour), _BAND_ROWS):  # the sums take twelve times as much memory as their results
        band = slice(top, top + _BAND_ROWS)
        opacity = alpha[band].astype(np.uint32).reshape(*alpha[band].shape, *[1] * (colour.ndim - 2))
        laid[band] = (colour[band] * opacity + 255 * (255 - opacity) + 127) // 255
    return laid
