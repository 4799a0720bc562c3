"""Photos for tests, made from numbers: smooth, so that cutting, encoding and pasting lose little."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from service.core.types import U8Image


def pixels(width: int = 120, height: int = 100, seed: int = 0) -> U8Image:
    """(H, W, 3) RGB of soft blots; every seed gives another picture."""
    small = np.random.default_rng(seed).integers(40, 216, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(picture: U8Image | None = None, kind: str = "PNG") -> bytes:
    """A file of the picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels() if picture is None else picture).save(buffer, kind)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    """A file of two frames."""
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(2)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def png_bomb(side_px: int = 50_000) -> bytes:
    """A PNG file of some 100 KB that declares `side_px` squared and would fill gigabytes."""
    packer = zlib.compressobj(9)
    row = bytes(side_px // 8 + 1)
    rows = b"".join(packer.compress(row) for _ in range(side_px)) + packer.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def decoded(data: bytes) -> U8Image:
    """Pixels of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
