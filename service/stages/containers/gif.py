"""GIF: counts frames, only to tell an animation from a still picture; neither is decoded."""

from __future__ import annotations

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE = 0x21, 0x2C


def is_animated_gif(data: bytes) -> bool:
    """Whether a second image follows the first; damage ends the count."""
    frames, position = 0, 13 + _table_bytes(data[10:11])
    while position < len(data):
        if data[position] == _EXTENSION:
            position = _skip_blocks(data, position + 2)
        elif data[position] == _IMAGE:
            frames += 1
            if frames > 1:
                return True
            position = _skip_blocks(data, position + 11 + _table_bytes(data[position + 9 : position + 10]))
        else:
            break
    return False


def _table_bytes(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    return position + 1
