"""GIF: counts frames, only to tell an animation from a still picture; neither is decoded."""

from __future__ import annotations

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE = 0x21, 0x2C
_MAX_BLOCKS = 200_000  # some 50 MB of honest data; blocks of one byte would keep the count busy for long


def is_animated_gif(data: bytes) -> bool:
    """Whether a second image follows the first; damage ends the count."""
    frames, position, inside = 0, 13 + _table_bytes(data[10:11]), False
    for _ in range(_MAX_BLOCKS):
        if position >= len(data):
            break
        kind = data[position]
        if inside:  # a chain of blocks, each headed by its length; an empty one ends it
            inside = kind > 0
            position += kind + 1
        elif kind == _EXTENSION:
            inside = True
            position += 2
        elif kind == _IMAGE:
            frames += 1
            if frames > 1:
                return True
            inside = True
            position += 11 + _table_bytes(data[position + 9 : position + 10])
        else:
            break
    return False


def _table_bytes(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
