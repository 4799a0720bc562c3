"""`make bench-wire`: photos a second by a stream of gRPC, by single calls of gRPC, and by HTTP, on one service.

    the same photos, so many at once -> stream | single calls | HTTP -> photos a second

The three take turns, so that a machine that becomes slower does so for all of them. The service is started for it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtest.photos import jpeg, scene
from loadtest.process import held_port, running_service
from service.client import Answer, AsyncGrpcClient, AsyncHttpClient, Options, Photo

_RESULT = "| {way} | {median:.2f} ({least:.2f}-{most:.2f}) | {ratio:.2f} |"


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, again and again.

    Attributes:
        image: Bytes of a photo.
        count: Photos of a round.
        window: Photos under way at once.
        options: The caller's choices.
    """

    image: bytes
    count: int
    window: int
    options: Options

    def photos(self) -> list[Photo]:
        """A round."""
        return [Photo(str(number), self.image) for number in range(self.count)]


@dataclass(slots=True)
class Ways:
    """Photos a second, by way, of each round.

    Attributes:
        per_s: By the name of the way, in the order of the rounds.
    """

    per_s: dict[str, list[float]] = field(default_factory=dict)

    def note(self, way: str, count: int, seconds: float) -> None:
        """What a round has shown."""
        self.per_s.setdefault(way, []).append(count / seconds)

    def as_markdown(self) -> str:
        """A table; the ratios are to the last way, round by round."""
        *_, base = self.per_s
        lines = ["| way | photos a second, median (least-largest) | ratio to HTTP |", "|---|---|---|"]
        for way, rates in self.per_s.items():
            ratio = statistics.median(mine / other for mine, other in zip(rates, self.per_s[base], strict=True))
            lines.append(
                _RESULT.format(way=way, median=statistics.median(rates), least=min(rates), most=max(rates), ratio=ratio)
            )
        return "\n".join(lines)


async def measure(http: AsyncHttpClient, grpc: AsyncGrpcClient, load: Load, rounds: int) -> Ways:
    """Let the ways take turns, after one unmeasured turn of each.

    Raises:
        RestorationError: A photo was not restored.
    """
    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "gRPC, one stream": lambda: _answered(grpc.restore_batch(load.photos(), window=load.window, **load.options)),
        "gRPC, single calls": lambda: _singly(grpc, load),
        "HTTP, single requests": lambda: _singly(http, load),
    }
    measured = Ways()
    for number in range(rounds + 1):
        for name, restore in ways.items():
            begun_s = time.perf_counter()
            count = await restore()
            if number > 0:
                measured.note(name, count, time.perf_counter() - begun_s)
    return measured


async def _answered(answers: AsyncIterator[Answer]) -> int:
    count = 0
    async for answer in answers:
        if answer.error is not None:
            raise answer.error
        count += 1
    return count


async def _singly(client: AsyncHttpClient | AsyncGrpcClient, load: Load) -> int:
    """As many calls at once as the stream may have photos."""
    room = asyncio.Semaphore(load.window)

    async def one(photo: Photo) -> None:
        async with room:
            await client.restore(photo.image, **load.options)

    await asyncio.gather(*(one(photo) for photo in load.photos()))
    return load.count


async def _measured(http_url: str, grpc_address: str, load: Load, rounds: int) -> Ways:
    async with AsyncHttpClient(http_url) as http, AsyncGrpcClient(grpc_address) as grpc:
        return await measure(http, grpc, load, rounds)


def run(load: Load, rounds: int) -> Ways:
    """`measure` on a service of its own, which keeps no results.

    Raises:
        RuntimeError: It did not become ready.
        RestorationError: A photo was not restored.
    """
    with held_port() as port:
        settings = {"LATENT_PMRF_GRPC_PORT": str(port), "LATENT_PMRF_RESULT_CACHE_BYTES": "0"}
        with running_service(settings) as service:
            return asyncio.run(_measured(str(service.client.base_url), f"127.0.0.1:{port}", load, rounds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the bench, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.bench.wire", description=__doc__)
    parser.add_argument("--photos", type=int, default=24, metavar="N", help="of a round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--window", type=int, default=8, metavar="N", help="photos under way at once")
    parser.add_argument("--megapixels", type=float, default=1.0, metavar="M", help="of a photo, with one face")
    parser.add_argument("--num-steps", type=int, default=1, metavar="N", help="few, so that the way counts for more")
    given = parser.parse_args(arguments)
    image = jpeg(scene(given.megapixels, 1))
    ways = run(Load(image, given.photos, given.window, {"seed": 0, "num_steps": given.num_steps}), given.rounds)
    sys.stdout.write(
        f"{given.photos} photos of {given.megapixels:g} megapixels and one face a round, {given.rounds} rounds, "
        f"{given.window} at once, {given.num_steps} steps\n\n{ways.as_markdown()}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
