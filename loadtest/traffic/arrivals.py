"""When requests are to be sent, and with which photo; decided before the first of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a schedule.

    Attributes:
        at_s: When it is to be sent, seconds from the beginning.
        photo: Which of the mix.
    """

    at_s: float
    photo: int


def poisson(per_s: float, seconds: float, weights: Sequence[float], seed: int) -> list[Arrival]:
    """A Poisson process: what comes does not depend on what came before, nor on how it is answered.

    Args:
        per_s: Requests a second, on average.
        seconds: How long.
        weights: Share of each photo of the mix; they need not sum to one.
        seed: Another number gives another schedule.

    Raises:
        ValueError: The rate is not positive.
    """
    if per_s <= 0:
        raise ValueError(f"{per_s:g} requests a second")
    rng = np.random.default_rng(seed)
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    arrivals, at_s = [], rng.exponential(1 / per_s)
    while at_s < seconds:
        arrivals.append(Arrival(float(at_s), int(rng.choice(len(shares), p=shares))))
        at_s += rng.exponential(1 / per_s)
    return arrivals
