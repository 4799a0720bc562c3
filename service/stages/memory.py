"""Memory: what a photo takes while it is worked on, by its size; measured, and rounded up."""

from __future__ import annotations

from service.core.types import DecodedImage, OutputFormat, RestoreOptions
from service.stages.seen import is_seen

_SHOWN = 3 * 2  # bytes of a pixel as detector and networks are shown it, with 16 bits where it was in linear light
_MOST = 4 * 2 + _SHOWN  # of a pixel of any photo: colours and alpha of 16 bits
_WEBP = 16  # of a pixel of the result, in libwebp


def undecoded_bytes(max_image_px: int, room_bytes: int) -> int:
    """What a photo takes that is not decoded yet: nothing is known of it but that it has no more pixels.

    A quarter of the room at most: photos of any size would be decoded one by one where few of the largest fit in.
    """
    return max(1, min(_MOST * max_image_px, room_bytes // 4))


def photo_bytes(image: DecodedImage) -> int:
    """What a decoded photo takes until its result is made."""
    return (_sample_bytes(image) + (0 if is_seen(image) else _SHOWN)) * _px(image)


def result_bytes(image: DecodedImage, options: RestoreOptions) -> int:
    """What making and encoding its result takes besides: without `upscale` the result has the photo's own samples."""
    px = round(options.upscale**2 * _px(image))
    copies = 2 if options.upscale == 1 else 3  # the result, its samples as the encoder takes them, and the file
    is_webp = (options.output_format or image.source_format) is OutputFormat.WEBP
    return (copies * _sample_bytes(image) + (_WEBP if is_webp else 0)) * px


def _sample_bytes(image: DecodedImage) -> int:
    """Of a pixel."""
    samples = 3 if image.alpha is None else 4
    return samples * image.pixels.itemsize


def _px(image: DecodedImage) -> int:
    return image.pixels.size // 3
