"""Photos for tests, made from numbers: smooth, so that cutting, encoding and pasting lose little."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from service.core.types import U8Image


def pixels(width: int = 120, height: int = 100, seed: int = 0) -> U8Image:
    """(H, W, 3) RGB of soft blots; every seed gives another picture."""
    small = np.random.default_rng(seed).integers(40, 216, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(picture: U8Image | None = None, kind: str = "PNG", **parameters: Any) -> bytes:
    """A file of the picture."""
    return saved(Image.fromarray(pixels() if picture is None else picture), kind, **parameters)


def saved(image: Image.Image, kind: str, **parameters: Any) -> bytes:
    """A file of a Pillow picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **parameters)
    return buffer.getvalue()


def png_file(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, each a kind and a body, with right checksums."""
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


def png_header(width: int, height: int, bit_depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    """The IHDR chunk for `png_file`."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)


def animated(kind: str) -> bytes:
    """A file of two frames."""
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(2)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def packed_zeros(count: int) -> bytes:
    """What zlib makes of that many zero bytes; a block is packed once and repeated, which takes no time."""
    block_bytes = 1 << 20
    packer = zlib.compressobj(9)
    first, block = (packer.compress(bytes(block_bytes)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    rest = packer.compress(bytes(count % block_bytes)) + packer.flush()
    blocks = count // block_bytes
    start = first + block * (blocks - 1) if blocks else first[:2]
    checksum = struct.pack(">HH", count % 65521, 1)  # Adler-32 of zeros
    return start + rest[:-4] + checksum


def png_bomb(side_px: int = 50_000) -> bytes:
    """A PNG file of some 300 KB that declares `side_px` squared and would fill gigabytes."""
    rows = packed_zeros(side_px * (side_px // 8 + 1))
    return png_file(png_header(side_px, side_px, 1, 0), (b"IDAT", rows), (b"IEND", b""))


def decoded(data: bytes, mode: str | None = None) -> U8Image:
    """Pixels of a file, in Pillow's `mode` or the file's own."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if mode is None else image.convert(mode))
