"""`make bench-wire`: photos a second by a stream of gRPC, by single calls of gRPC, and by HTTP, on one service.

    the same photos, so many at once -> stream | single calls | HTTP -> photos a second

The three take turns, so that a machine that becomes slower does so for all of them. The service is started for it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from loadtest.photos import jpeg, scene
from loadtest.process import held_port, running_service
from service.bench.tables import ratios_table
from service.client import Answer, AsyncGrpcClient, AsyncHttpClient, Options, Photo

_BASE = "HTTP, single requests"


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


async def measure(http: AsyncHttpClient, grpc: AsyncGrpcClient, load: Load, rounds: int) -> dict[str, list[float]]:
    """Photos a second, by way, of each round; the ways take turns, after one unmeasured turn of each.

    Raises:
        RestorationError: A photo was not restored.
    """
    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "gRPC, one stream": lambda: _answered(grpc.restore_batch(load.photos(), window=load.window, **load.options)),
        "gRPC, single calls": lambda: _singly(grpc, load),
        _BASE: lambda: _singly(http, load),
    }
    per_s: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, restore in ways.items():
            begun_s = time.perf_counter()
            count = await restore()
            if number > 0:
                per_s[name].append(count / (time.perf_counter() - begun_s))
    return per_s


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


async def _measured(http_url: str, grpc_address: str, load: Load, rounds: int) -> dict[str, list[float]]:
    async with AsyncHttpClient(http_url) as http, AsyncGrpcClient(grpc_address) as grpc:
        return await measure(http, grpc, load, rounds)


def run(load: Load, rounds: int) -> dict[str, list[float]]:
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
    per_s = run(Load(image, given.photos, given.window, {"seed": 0, "num_steps": given.num_steps}), given.rounds)
    sys.stdout.write(
        f"{given.photos} photos of {given.megapixels:g} megapixels and one face a round, {given.rounds} rounds, "
        f"{given.window} at once, {given.num_steps} steps\n\n"
        f"{ratios_table('photos a second', per_s, _BASE, decimals=2, of_ratios=2)}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
