"""Seeds of what is drawn for a micro-batch: noise, times, placements."""

from __future__ import annotations

_BITS = 32
_SPREAD = 0x9E3779B1  # odd, and near 2 ** 32 over the golden ratio: multiples of it stay far from each other


def draw_seed(seed: int, index: int) -> int:
    """Seed of the generator for draw `index` of a run, below 2 ** 32: PyTorch's on the CPU forgets all higher bits.

    Other for every index of a run; those of two runs whose seeds are less than 100 apart meet after 19 million.

    Args:
        seed: Of the run, below 2 ** 32.
        index: Running number of the draw, below 2 ** 32.
    """
    return (seed * _SPREAD + index) % 2**_BITS
