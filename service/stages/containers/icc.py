"""ICC profiles: which pixels a profile describes, and conversion to sRGB where a profile cannot be kept."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, ImageCms

ColourSpace = Literal["RGB", "GRAY", "CMYK"]


def profile_for(profile: bytes | None, space: ColourSpace) -> bytes | None:
    """The profile, if it is plausible and describes pixels of this colour space, else None.

    A profile of another space does not belong to the pixels (viewers ignore or misread it), so it is dropped.
    """
    if profile is None or len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    if int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile if profile[16:20] == space.encode().ljust(4) else None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a CMYK or grey picture to sRGB.

    Args:
        image: Mode CMYK or L.
        profile: The profile of the picture. Without a usable one the conversion is the arithmetical one.

    Returns:
        Mode RGB, to be used without a profile.
    """
    space: ColourSpace = "CMYK" if image.mode == "CMYK" else "GRAY"
    usable = profile_for(profile, space)
    if usable is not None:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(usable)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")
