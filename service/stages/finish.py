"""Finish: restored faces and their photo -> the file, by blend, colour, paste and encode in one go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.core.colour import coarse_shift, with_colour_of
from service.core.errors import ImageTooLarge
from service.core.stopwatch import Stopwatch
from service.core.types import AlignedFace, DecodedImage, OutputFormat, RestoredFace, RestoreOptions
from service.stages.blend import BlendedFace, blend, blend_where_it_draws
from service.stages.encode import check_sides, encode
from service.stages.light import is_linear
from service.stages.paste import paste
from service.stages.picks import UNRELIABLE, Pick, require_a_face
from service.stages.tone import in_photo


@dataclass(frozen=True, slots=True)
class Finished:
    """A photo with its faces restored.

    Attributes:
        image: Its pixels.
        picks: Its faces; those with which the networks went astray are left out.
        blended: Those that were pasted, by index, before they had the photo's colour and tone.
        output_format: Its encoding.
        data: Its file.
    """

    image: DecodedImage
    picks: Sequence[Pick]
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
    max_coarse_shift: float | None,
) -> Finished:
    """Make the file of a photo.

    Args:
        watch: Told of each stage.
        image: The photo; it is consumed.
        picks: Its faces.
        restored: Those of them that were chosen.
        fidelity: 0 gives the sample, 1 the posterior mean; at least so much where the caller has chosen none.
        options: The caller's choices.
        max_coarse_shift: As in the manifest: what is moved by more is left as it is.

    Raises:
        NoFaceFound: The caller wants a face, and the networks went astray with each of them.
        InferenceFailed: A restored face holds values that are not finite.
        InvalidOption: The format cannot hold a picture of this size.
    """
    with watch.stage("blend"):
        aligned = {face.index: face for face in _aligned(picks)}
        blended = {face.face_index: _blended(face, aligned[face.face_index], fidelity, options) for face in restored}
        picks = [_checked(pick, blended, max_coarse_shift) for pick in picks]
        require_a_face(picks, options.faces)
        linear = is_linear(image)
        pairs = [
            (face, in_photo(with_colour_of(blended[face.index].pixels, face.crop), face, is_linear=linear))
            for face in _aligned(picks)
        ]
    with watch.stage("paste"):
        result = paste(image, pairs, upscale=options.upscale, background=options.background, consume=True)
    with watch.stage("encode"):
        output_format = options.output_format or image.source_format
        data = encode(result, output_format, options.quality)
    pasted = {face.index: blended[face.index] for face in _aligned(picks)}
    return Finished(result, picks, pasted, output_format, data)


def check_result_size(
    width: int, height: int, options: RestoreOptions, source_format: OutputFormat, max_output_px: int
) -> None:
    """Refuse a result, of a photo of that size, that is too large.

    Raises:
        ImageTooLarge: It would have more than `max_output_px`.
        InvalidOption: Its format cannot hold a picture of its size.
    """
    size = round(width * options.upscale), round(height * options.upscale)
    output_px = size[0] * size[1]
    if output_px > max_output_px:
        raise ImageTooLarge(
            f"{width} x {height} times {options.upscale:g} is {output_px} pixels",
            hint="choose a smaller upscale",
            output_px=output_px,
            max_output_px=max_output_px,
        )
    check_sides(*size, options.output_format or source_format)


def _aligned(picks: Sequence[Pick]) -> list[AlignedFace]:
    return [pick.aligned for pick in picks if pick.aligned is not None]


def _blended(face: RestoredFace, aligned: AlignedFace, fidelity: float, options: RestoreOptions) -> BlendedFace:
    if options.fidelity is not None:
        return blend(face, fidelity)
    shrink = math.hypot(*aligned.affine[:, 0]) / options.upscale  # pixels of the crop to one of the result
    return blend_where_it_draws(face, aligned.crop, fidelity, shrink)


def _checked(pick: Pick, blended: Mapping[int, BlendedFace], max_coarse_shift: float | None) -> Pick:
    """The pick, left out if its face is coarsely another than the photo's."""
    face = pick.aligned
    if face is None or max_coarse_shift is None:
        return pick
    if coarse_shift(blended[face.index].pixels, face.crop) <= max_coarse_shift:
        return pick
    return replace(pick, aligned=None, reason=UNRELIABLE)
