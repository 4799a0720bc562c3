"""How many cores this process may use: what it is bound to, and what its container may spend; and what they can do."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_PROCESSORS = Path("/proc/cpuinfo")


def usable_cores(cgroups: Path = _CGROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Cores that this process may keep busy, at least 1.

    A container with `--cpus 2` on a machine of 64 cores sees all of them; 64 threads would spend its time slice at once
    and then stand still together. Half a core counts as one. The arguments are where the kernel shows groups of
    processes, of version 1 or 2, and which of them this process is in.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(cgroups, own_group))]))


def has_bfloat16_tiles(processors: Path = _PROCESSORS) -> bool:
    """Whether the cores multiply matrices of bfloat16 by units of their own (Intel's AMX), as the kernel lists them."""
    flags = (line for line in _text(processors).splitlines() if line.startswith("flags"))
    return "amx_bf16" in next(flags, "").split()


def _quotas(cgroups: Path, own_group: Path) -> Iterator[float]:
    """Cores that each of its groups may spend, where that is limited."""
    for folder in _folders(cgroups, own_group):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        yield from _ratio(quota, period)
        yield from _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _folders(cgroups: Path, own_group: Path) -> Iterator[Path]:
    """The groups that this process is in, the outermost last: what a container sees as the root is its own."""
    for line in _text(own_group).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):  # version 2 names none
            whole = cgroups / controllers
            yield from (whole / each for each in (Path(group.lstrip("/")), *Path(group.lstrip("/")).parents))


def _ratio(quota: str, period: str) -> Iterator[float]:
    """Nothing where there is no limit: `max` in version 2, -1 in version 1, no file."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if float(quota) > 0:
            yield float(quota) / float(period)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
