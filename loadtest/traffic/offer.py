"""Sends a schedule, and notes for each request when it was to be sent, when it was, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.mix import MixedPhoto
from loadtest.traffic.senders import Sender


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        photo: Which of the mix.
        intended_s: When it was to be sent, seconds from the beginning.
        sent_s: When it was.
        ended_s: When the whole answer was there.
        code: `ok`, or why there is no photo; see Sender.
        expected: What the answer had to be.
    """

    photo: int
    intended_s: float
    sent_s: float
    ended_s: float
    code: str
    expected: str

    @property
    def latency_s(self) -> float:
        """What the sender of such a request has waited: from the intended time, not from when a client got to it."""
        return self.ended_s - self.intended_s


async def offer(
    sender: Sender, arrivals: Sequence[Arrival], photos: Sequence[MixedPhoto], patience_s: float
) -> list[Sample]:
    """Send every request at its time, whatever is still under way.

    Args:
        sender: The way to ask.
        arrivals: The schedule, in order.
        photos: The mix that it speaks of.
        patience_s: When a request is given up, seconds after it was to be sent.

    Returns:
        A sample for each arrival, in the same order.
    """
    begun_s = time.perf_counter()

    async def one(arrival: Arrival) -> Sample:
        sent_s = time.perf_counter() - begun_s
        photo = photos[arrival.photo]
        left_s = max(0.001, arrival.at_s + patience_s - sent_s)
        code = await sender.send(photo.image, left_s)
        return Sample(arrival.photo, arrival.at_s, sent_s, time.perf_counter() - begun_s, code, photo.expected)

    tasks = []
    for arrival in arrivals:
        await asyncio.sleep(max(0.0, arrival.at_s - (time.perf_counter() - begun_s)))
        tasks.append(asyncio.create_task(one(arrival)))
    return list(await asyncio.gather(*tasks))


async def saturate(sender: Sender, photos: Sequence[MixedPhoto], order: Sequence[int], at_once: int) -> float:
    """Photos a second that get the answer they deserve when `at_once` requests are always under way.

    That is what the service can do, as long as so many are not more than it takes in.

    Args:
        sender: The way to ask.
        photos: The mix.
        order: Which photo is sent when.
        at_once: Requests under way.
    """
    left, answered = iter(order), 0

    async def client() -> None:
        nonlocal answered
        for photo in left:
            code = await sender.send(photos[photo].image, timeout_s=300.0)
            answered += code == photos[photo].expected

    begun_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return answered / (time.perf_counter() - begun_s)
