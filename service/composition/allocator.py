"""What the C library's allocator keeps of the memory that arrays give back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_LARGEST_KEPT_BYTES = 32 * 1024**2  # the most that glibc takes, and arrives at by itself after arrays of that size
_MOST_KEPT_BYTES = 2 * _LARGEST_KEPT_BYTES  # at the end of a thread's heap; its own ratio, too
_OPERATORS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_arrays(environment: Mapping[str, str] = os.environ) -> bool:
    """Let arrays of a few faces reuse memory of those before them.

    By itself glibc adapts to the largest array that it has seen, and of smaller ones gives more than two back at once,
    so that the kernel clears every page of them anew: a seventh of the time that a gateway needs for a photo. Beside
    networks in the same process that is nothing, and the memory that is kept some 100 to 200 MB
    (docs/profiles/gateway.md).

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
