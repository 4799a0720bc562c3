"""Files made to harm: a corpus of honest ones, and what may be done to them. The same number gives the same file.

`python -m tests.hostile_files FIRST END STEP` writes files to its output, each after its length: who watches its own
memory had better not make them himself.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from PIL import Image

from tests.pictures import animated, pixels, saved

Parts = list[bytes]

_LENGTH = struct.Struct("<I")

_SIGNATURES = {b"\x89PNG": 8, b"RIFF": 12}
_TIFF_ORIENTATION = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
_PROFILE = b"\0\0\0\xc8" + bytes(12) + b"RGB " + bytes(16) + b"acsp" + bytes(160)
_COLOURS = (
    (b"gAMA", struct.pack(">I", 55_000)),
    (b"cHRM", struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 21_000, 71_000, 15_000, 6_000)),
    (b"pHYs", struct.pack(">IIB", 11_811, 5_906, 1)),
)
_CODED_COLOURS = ((b"cICP", bytes([9, 1, 0, 1])), (b"sRGB", b"\0"))
_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)
_FILL = (b"\0", b"\xff", b"\xff\xd9", b"\xff\xda", b"IEND", b"IDAT", b"ANMF", b"%n%s", b"\x80\x04.")
_SOS = 0xDA


@cache
def corpus() -> tuple[bytes, ...]:
    """Honest files: every kind that is read, and two that are refused."""
    photo = Image.fromarray(pixels(96, 80))
    clear = photo.copy()
    clear.putalpha(photo.getchannel(0))
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 48), dtype=np.uint16))
    extras = {"exif": _TIFF_ORIENTATION, "icc_profile": _PROFILE}
    return (
        saved(photo, "JPEG", **extras),
        saved(photo, "JPEG", progressive=True, quality=85, comment=b"a comment"),
        saved(photo, "JPEG", subsampling=0, restart_marker_blocks=4),
        saved(photo.convert("L"), "JPEG"),
        saved(photo.convert("CMYK"), "JPEG"),
        saved(photo, "PNG", **extras),
        saved(clear, "PNG", exif=_TIFF_ORIENTATION),
        saved(photo.quantize(16), "PNG", transparency=3),
        saved(photo.convert("L"), "PNG", transparency=7),
        saved(photo.convert("1"), "PNG"),
        saved(deep, "PNG"),
        _stating(saved(photo, "PNG"), *_COLOURS),
        _stating(saved(photo, "PNG", icc_profile=_PROFILE), *_CODED_COLOURS),
        _stating(saved(photo.convert("L"), "PNG"), *_COLOURS[::2]),
        saved(photo, "JPEG", dpi=(300, 150)),
        saved(photo, "WEBP", lossless=True),
        saved(photo, "WEBP", **extras),
        saved(clear, "WEBP", quality=60),
        saved(clear, "WEBP", lossless=True, exif=_TIFF_ORIENTATION),
        animated("WEBP"),
        animated("PNG"),
    )


def _stating(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with more chunks after its header."""
    head, (header, *rest) = _apart(png)
    more = [struct.pack(">I", len(body)) + kind + body + bytes(4) for kind, body in chunks]
    return _consistent(head + b"".join([header, *more, *rest]))


def hostile_file(number: int) -> bytes:
    """The file with this number: one of the corpus after one to six changes."""
    dice = random.Random(number)
    data = dice.choice(corpus())
    for _ in range(dice.choice([1, 1, 1, 2, 3, 6])):
        data = dice.choice(_CHANGES)(data, dice)[: 1 << 20]
    if dice.random() < 0.6:
        data = _consistent(data)
    return data


def hostile_files(numbers: range) -> Iterator[tuple[int, bytes]]:
    """The files with these numbers, made by another process."""
    command = [sys.executable, "-m", "tests.hostile_files", *map(str, (numbers.start, numbers.stop, numbers.step))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        for number in numbers:
            (size,) = _LENGTH.unpack(maker.stdout.read(_LENGTH.size))
            yield number, maker.stdout.read(size)


def _flip(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 2, 8, 64])):
        if changed:
            at = dice.randrange(min(len(changed), dice.choice([64, 700, len(changed)])))
            changed[at] = dice.choice([0, 255, changed[at] ^ 1 << dice.randrange(8), dice.randrange(256)])
    return bytes(changed)


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _remove(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + data[at + dice.choice([1, 2, 4, 32, 1000]) :]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(_FILL) * dice.choice([1, 1, 8, 4000]) + data[at:]


def _number(data: bytes, dice: random.Random) -> bytes:
    """A number that sizes and lengths are likely to stumble over, where the header is, or anywhere."""
    width, order = dice.choice([1, 2, 4]), dice.choice(["little", "big"])
    at = dice.randrange(max(1, min(len(data), dice.choice([40, 200, len(data)]))))
    value = dice.choice(_NUMBERS) & (256**width - 1)
    return data[:at] + value.to_bytes(width, order) + data[at + width :]


def _splice(data: bytes, dice: random.Random) -> bytes:
    """The beginning of one file, the end of another."""
    other = dice.choice(corpus())
    return data[: dice.randrange(len(data) + 1)] + other[dice.randrange(len(other)) :]


def _parts_moved(data: bytes, dice: random.Random) -> bytes:
    head, parts = _apart(data)
    if len(parts) < 2:
        return data
    first, second = dice.sample(range(len(parts)), 2)
    match dice.randrange(4):
        case 0:
            parts[first], parts[second] = parts[second], parts[first]
        case 1:
            parts[first:first] = [parts[second]] * dice.choice([1, 1, 3, 300])
        case 2:
            del parts[first]
        case 3:
            _, others = _apart(dice.choice(corpus()))
            parts[first:first] = [dice.choice(others)] if others else []
    return head + b"".join(parts)


def _length_lied(data: bytes, dice: random.Random) -> bytes:
    head, parts = _apart(data)
    if not parts:
        return data
    at = dice.randrange(len(parts))
    part, lie = parts[at], dice.choice([*_NUMBERS, dice.randrange(1 << 16)])
    if data.startswith(b"\x89PNG"):
        parts[at] = struct.pack(">I", lie) + part[4:]
    elif data.startswith(b"RIFF"):
        parts[at] = part[:4] + struct.pack("<I", lie) + part[8:]
    else:
        parts[at] = part[:2] + struct.pack(">H", lie & 0xFFFF) + part[4:]
    return head + b"".join(parts)


def _packed_anew(data: bytes, dice: random.Random) -> bytes:
    """A PNG whose compressed parts unpack to something else: to more, to less, or to nothing."""
    head, parts = _apart(data)
    packed = [at for at, part in enumerate(parts) if part[4:8] in (b"IDAT", b"iCCP")]
    if not data.startswith(b"\x89PNG") or not packed:
        return data
    at = dice.choice(packed)
    kind = parts[at][4:8]
    body = zlib.compress(dice.choice([b"", b"\4", bytes(range(256))]) * dice.choice([0, 1, 1000, 20_000]))
    body = body[: dice.choice([len(body), len(body), max(1, len(body) // 2)])]
    parts[at] = b"\0\0\0\0" + kind + (b"name\0\0" if kind == b"iCCP" else b"") + body + b"\0\0\0\0"
    return head + b"".join(parts)


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _remove,
    _insert,
    _number,
    _number,
    _splice,
    _parts_moved,
    _parts_moved,
    _length_lied,
    _packed_anew,
)


def _apart(data: bytes) -> tuple[bytes, Parts]:
    """What a file begins with, and its chunks or segments, as far as their lengths can be followed."""
    start = _SIGNATURES.get(data[:4], 2)
    parts, at = [], start
    while at + 4 <= len(data):
        if data.startswith(b"\x89PNG"):
            size = 12 + int.from_bytes(data[at : at + 4], "big")
        elif data.startswith(b"RIFF"):
            size = 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        elif data[at + 1] == _SOS:
            size = len(data)
        else:
            size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at : at + size])
        at += size
    return data[:start], parts


def _consistent(data: bytes) -> bytes:
    """Lengths and checksums that fit again, so that damage is found by what reads the pixels and not by what counts."""
    head, parts = _apart(data)
    if data.startswith(b"\x89PNG"):
        chunks = [(part[4:8], part[8:-4]) for part in parts if len(part) >= 12]
        packed = (struct.pack(">I", len(body)) + kind + body for kind, body in chunks)
        sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
        return head + b"".join(part for pair in zip(packed, sums, strict=True) for part in pair)
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data


if __name__ == "__main__":
    for wanted in range(*map(int, sys.argv[1:])):
        made = hostile_file(wanted)
        sys.stdout.buffer.write(_LENGTH.pack(len(made)) + made)
