"""What the C library's allocator keeps of the memory that arrays give back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_LARGEST_KEPT_BYTES = 16 * 1024**2  # four crops of 512 px in float32 are 12 MB; a photo's are given back
_MOST_KEPT_BYTES = 2 * _LARGEST_KEPT_BYTES  # at the end of a thread's heap
_OPERATORS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_arrays(environment: Mapping[str, str] = os.environ) -> bool:
    """Let arrays of a few faces reuse memory of those before them.

    By itself glibc gives such memory back at once, and the kernel clears every page of it anew: a seventh of the time
    that a gateway needs for a photo, for some 100 MB that a busy process keeps (docs/profiles/gateway.md).

    Args:
        environment: Where an operator may have said it differently; then nothing is done.

    Returns:
        Whether the allocator took it; other C libraries than glibc have nothing of the kind.
    """
    if any(name in environment for name in _OPERATORS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES), mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)]
    return all(taken)
