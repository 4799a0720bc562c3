"""Finish: restored faces and their photo -> the file, by blend, colour, paste and encode in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.core.stopwatch import Stopwatch
from service.core.types import DecodedImage, OutputFormat, RestoredFace, RestoreOptions
from service.stages.blend import BlendedFace, blend
from service.stages.colour import with_colour_of
from service.stages.encode import encode
from service.stages.paste import paste
from service.stages.picks import Pick
from service.stages.tone import in_photo


@dataclass(frozen=True, slots=True)
class Finished:
    """A photo with its faces restored.

    Attributes:
        image: Its pixels.
        blended: The faces, by index, before they have the photo's colour and tone.
        output_format: Its encoding.
        data: Its file.
    """

    image: DecodedImage
    blended: Mapping[int, BlendedFace]
    output_format: OutputFormat
    data: bytes


def finish(  # noqa: PLR0913 - what three stages need
    watch: Stopwatch,
    image: DecodedImage,
    picks: Sequence[Pick],
    restored: Sequence[RestoredFace],
    fidelity: float,
    options: RestoreOptions,
) -> Finished:
    """Make the file of a photo.

    Args:
        watch: Told of each stage.
        image: The photo; it is consumed.
        picks: Its faces.
        restored: Those of them that were chosen.
        fidelity: 0 gives the sample, 1 the posterior mean.
        options: The caller's choices.

    Raises:
        InferenceFailed: A restored face holds values that are not finite.
        InvalidOption: The format cannot hold a picture of this size.
    """
    with watch.stage("blend"):
        blended = {face.face_index: blend(face, fidelity) for face in restored}
        chosen = [(pick.aligned, blended[pick.index].pixels) for pick in picks if pick.aligned is not None]
        pairs = [(aligned, in_photo(with_colour_of(pixels, aligned.crop), aligned)) for aligned, pixels in chosen]
    with watch.stage("paste"):
        result = paste(image, pairs, upscale=options.upscale, background=options.background, consume=True)
    with watch.stage("encode"):
        output_format = options.output_format or image.source_format
        return Finished(result, blended, output_format, encode(result, output_format, options.quality))
