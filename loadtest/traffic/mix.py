"""The photos that are sent: small and large, with one face and with many, and some that cannot be restored."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.photos import jpeg, scene

OK = "ok"


@dataclass(frozen=True, slots=True)
class MixedPhoto:
    """One kind of request.

    Attributes:
        name: For the table.
        image: Bytes of the upload.
        weight: How often it comes, beside the others.
        expected: `ok`, or the error code that it must be refused with.
    """

    name: str
    image: bytes
    weight: float
    expected: str = OK


def everyday() -> list[MixedPhoto]:
    """What a service on the open net gets: 0.3 to 12 megapixels, 1 to 20 faces, one in ten of no use."""
    small = jpeg(scene(0.3, 1))
    return [
        MixedPhoto("1 face, 0.3 MP", small, 30),
        MixedPhoto("1 face, 1 MP", jpeg(scene(1, 1)), 35),
        MixedPhoto("2 faces, 3 MP", jpeg(scene(3, 2)), 14),
        MixedPhoto("5 faces, 3 MP", jpeg(scene(3, 5)), 5),
        MixedPhoto("1 face, 12 MP", jpeg(scene(12, 1)), 5),
        MixedPhoto("20 faces, 12 MP", jpeg(scene(12, 20)), 1),
        MixedPhoto("no face", jpeg(scene(1, 0)), 3, "no_face_found"),
        MixedPhoto("cut JPEG", small[: len(small) // 2], 4, "corrupt_image"),
        MixedPhoto("text", b"This is no photo. " * 500, 3, "unsupported_format"),
    ]


def portraits() -> list[MixedPhoto]:
    """One face in one megapixel, every time."""
    return [MixedPhoto("1 face, 1 MP", jpeg(scene(1, 1)), 1)]


MIXES = {"everyday": everyday, "portraits": portraits}
