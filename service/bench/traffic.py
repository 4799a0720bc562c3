"""Requests of one face each: when they come and how many steps they want."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Request:
    """One face.

    Attributes:
        at_s: When it comes, in seconds after the beginning.
        num_steps: Euler steps that it wants.
    """

    at_s: float
    num_steps: int


def poisson(per_s: float, deck: Sequence[int], count: int, seed: int) -> list[Request]:
    """Requests that come independently of each other and of how they are served (an open loop).

    Args:
        per_s: How many come in a second, on average.
        deck: Numbers of steps. Each card is dealt as often as any other, in random order, so that the mix of a short
            run is the mix that was meant.
        count: Requests.
        seed: Of arrivals and order.
    """
    generator = np.random.default_rng(seed)
    at_s = np.cumsum(generator.exponential(1 / per_s, count))
    return [Request(float(at), steps) for at, steps in zip(at_s, _dealt(deck, count, generator), strict=True)]


def backlog(deck: Sequence[int], count: int, seed: int) -> list[Request]:
    """Requests that are all there from the beginning."""
    return [Request(0.0, steps) for steps in _dealt(deck, count, np.random.default_rng(seed))]


def _dealt(deck: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    cards = np.tile(np.asarray(deck), math.ceil(count / len(deck)))[:count]
    return [int(steps) for steps in generator.permutation(cards)]
