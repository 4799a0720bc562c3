"""`make showcase`: the README's picture, made by the running code.

scikit-image's astronaut (NASA, public domain) is degraded with fixed parameters, sent to a service, and laid beside
what comes back: the whole photo above, the face enlarged below.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from loadtest.photos import jpeg, portrait_photo
from loadtest.process import running_service

_BLUR_PX = 1.2
_DOWN = 2.0
_NOISE = 6.0
_JPEG_QUALITY = 60
_FACE_BOX = (160, 40, 288, 168)
_SEED = 1
_GAP_PX = 8


def degraded_astronaut() -> bytes:
    """A PNG file of the photo after blur, 2 times down, noise, JPEG and back up."""
    photo = Image.fromarray(portrait_photo())
    small_side = round(photo.width / _DOWN)
    small = photo.filter(ImageFilter.GaussianBlur(_BLUR_PX)).resize((small_side, small_side), Image.Resampling.BOX)
    noise = np.random.default_rng(_SEED).normal(0.0, _NOISE, (small_side, small_side, 3))
    noisy = np.clip(np.rint(np.asarray(small) + noise), 0, 255).astype(np.uint8)
    with Image.open(io.BytesIO(jpeg(noisy, _JPEG_QUALITY))) as compressed:
        return _png(compressed.resize(photo.size, Image.Resampling.BICUBIC))


def restore(photo: bytes) -> bytes:
    """What a freshly started service answers with its defaults.

    Raises:
        httpx.HTTPStatusError: The service refused the photo.
    """
    with running_service() as service:
        reply = service.client.post("/restore", files={"image": ("astronaut.png", photo)}, data={"seed": str(_SEED)})
        reply.raise_for_status()
        return reply.content


def side_by_side(before: bytes, after: bytes) -> Image.Image:
    """Both photos above, both faces enlarged below."""
    columns = [_column(data) for data in (before, after)]
    gap = np.full((columns[0].shape[0], _GAP_PX, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([columns[0], gap, columns[1]], axis=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.showcase", description=__doc__)
    parser.add_argument("target", type=Path, nargs="?", default=Path("docs/images/astronaut_before_after.jpg"))
    target: Path = parser.parse_args(arguments).target
    before = degraded_astronaut()
    target.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(before, restore(before)).save(target, quality=92, optimize=True)
    sys.stdout.write(f"wrote {target}\n")
    return 0


def _column(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as opened:
        photo = opened.convert("RGB")
    face = photo.crop(_FACE_BOX).resize((photo.width, photo.width), Image.Resampling.BICUBIC)
    gap = np.full((_GAP_PX, photo.width, 3), 255, np.uint8)
    return np.concatenate([np.asarray(photo), gap, np.asarray(face)], axis=0)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
