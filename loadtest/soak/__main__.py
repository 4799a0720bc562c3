"""`make soak`: twenty minutes of jobs on a deployment whose gateways and workers are killed, and nothing may be lost.

A job is sent to any gateway; where that dies before it has answered, the job is sent to another one under the same key.
At the end every job must have ended once: a good photo with its own restoration, a bad one with its own error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loadtest.photos import scene
from loadtest.process import resident_bytes
from loadtest.soak.fleet import Fleet, Member, fleet
from loadtest.soak.stamped import number_of, stamped
from loadtest.traffic.arrivals import poisson
from loadtest.traffic.report import percentile

_MIB = 1024 * 1024
_BEAT_S = 5.0
_AGAIN_S = 0.5
_ENDED = ("succeeded", "failed", "cancelled")
_NOT_NOW = (429, 503)
#: What is sent: photo or bytes, share, and what must become of it.
_MIX = (
    ("one face", 80, "succeeded"),
    ("no face", 8, "no_face_found"),
    ("cut", 7, "corrupt_image"),
    ("text", 5, "unsupported_format"),
)


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a job.

    Attributes:
        expected: What had to.
        found: `succeeded`, an error code, or what is wrong.
        seconds: From the first time it was sent to its end, as its sender has seen it.
        sent: How often it had to be sent until a gateway answered.
    """

    expected: str
    found: str
    seconds: float
    sent: int


@dataclass
class Diary:
    """What happened.

    Attributes:
        endings: Of all jobs.
        kills: By kind of process.
        memory_mib: By process, (seconds, MiB).
    """

    endings: list[Ending] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    memory_mib: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def as_markdown(self) -> str:
        """A report."""
        wrong = [ending for ending in self.endings if ending.found != ending.expected]
        times = [ending.seconds for ending in self.endings] or [0.0]
        kills = ", ".join(f"{count} of {kind}s" for kind, count in sorted(self.kills.items())) or "none"
        lines = [
            f"- jobs: {len(self.endings)}, of which wrong or lost: {len(wrong)}",
            f"- ended as they had to: {_counted(ending.found for ending in self.endings if ending not in wrong)}",
            f"- kills: {kills}; jobs sent more than once: {sum(ending.sent > 1 for ending in self.endings)}",
            f"- seconds from sending to the end: median {statistics.median(times):.1f}, p99 "
            f"{percentile(times, 99):.1f}, largest {max(times):.1f}",
        ]
        lines += [f"- memory of {name}: {_told(seen)}" for name, seen in self.memory_mib.items()]
        lines += [f"- WRONG: {ending}" for ending in wrong[:10]]
        return "\n".join(lines)


@dataclass
class Sender:
    """Brings one photo through, whatever is killed meanwhile.

    Attributes:
        client: For all senders.
        gateways: Any of them is asked.
        number: Of the photo.
        asked: Requests that were sent, answered or not.
    """

    client: httpx.AsyncClient
    gateways: Sequence[Member]
    number: int
    asked: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.number)  # noqa: S311 - which gateway is asked is no secret

    async def bring(self, kind: str, expected: str) -> Ending:
        """Send it as a job, wait for the end, and look at the result."""
        begun_s = time.perf_counter()
        headers = {"Prefer": "respond-async", "Idempotency-Key": f"job {self.number}"}
        form, files = {"output_format": "png", "seed": "1"}, {"image": ("photo", _photo(kind, self.number))}
        answer = await self._answer("POST", "/v1/restorations", files=files, data=form, headers=headers)
        sent = self.asked
        found = await self._followed(answer)
        return Ending(expected, found, time.perf_counter() - begun_s, sent)

    async def ready(self) -> None:
        """Wait until a gateway says that it can restore photos."""
        await self._answer("GET", "/readyz")

    async def _followed(self, admitted: httpx.Response) -> str:
        """What becomes of a job that was sent: `succeeded`, an error code, or what is wrong."""
        if admitted.status_code >= httpx.codes.BAD_REQUEST:
            return str(admitted.json()["code"])
        where = admitted.headers["location"]
        state = {"status": "queued"}
        while state["status"] not in _ENDED:
            await asyncio.sleep(_AGAIN_S)
            answer = await self._answer("GET", where)
            state = answer.json()
            if answer.status_code != httpx.codes.OK:
                return f"lost: {state['code']}"
        if state["status"] != "succeeded":
            error = state.get("error")
            return str(error["code"]) if isinstance(error, dict) else str(state["status"])
        result = await self._answer("GET", f"{where}/result")
        if result.status_code != httpx.codes.OK:
            return f"result lost: {result.status_code}"
        told = number_of(result.content)
        return "succeeded" if told == self.number else f"another photo: {told} for {self.number}"

    async def _answer(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer of a gateway that is there and has room; until there is one, others are asked."""
        while True:
            self.asked += 1
            with contextlib.suppress(httpx.TransportError):
                answer = await self.client.request(method, self._chance.choice(self.gateways).url + path, **parts)
                if answer.status_code not in _NOT_NOW:
                    return answer
            await asyncio.sleep(_AGAIN_S)


async def accidents(running: Fleet, every_s: float, seed: int, diary: Diary) -> None:
    """Kill one process after the other, of any kind, until cancelled."""
    chance = random.Random(seed)  # noqa: S311 - accidents that can be repeated
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * every_s)
        member = chance.choice(running.members)
        diary.kills[member.kind] += 1
        await asyncio.to_thread(running.kill, member)


async def watch(running: Fleet, diary: Diary) -> None:
    """Note the memory of every process, until cancelled."""
    begun_s = time.perf_counter()
    while True:
        for member in running.members:
            mib = await asyncio.to_thread(resident_bytes, member.process.pid) / _MIB
            seen = diary.memory_mib.setdefault(f"{member.kind} {member.port}", [])
            seen.append((time.perf_counter() - begun_s, mib))
        await asyncio.sleep(_BEAT_S)


async def soak(running: Fleet, seconds: float, per_s: float, kill_every_s: float, seed: int) -> Diary:
    """Send jobs at a rate, let accidents happen, and wait until every job has ended."""
    diary = Diary()
    gateways = [member for member in running.members if member.kind == "gateway"]
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(timeout=60.0, limits=limits) as client:
        await _until_ready(client, gateways)
        beside = [asyncio.create_task(watch(running, diary))]
        beside.append(asyncio.create_task(accidents(running, kill_every_s, seed, diary)))
        begun_s = time.perf_counter()
        jobs = []
        for number, arrival in enumerate(poisson(per_s, seconds, [share for _, share, _ in _MIX], seed)):
            await asyncio.sleep(max(0.0, arrival.at_s - (time.perf_counter() - begun_s)))
            kind, _, expected = _MIX[arrival.photo]
            jobs.append(asyncio.create_task(Sender(client, gateways, number).bring(kind, expected)))
        beside[1].cancel()  # what was killed last gets the time to take up its work
        diary.endings = list(await asyncio.gather(*jobs))
        beside[0].cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return diary


async def _until_ready(client: httpx.AsyncClient, gateways: Sequence[Member]) -> None:
    for gateway in gateways:
        await Sender(client, [gateway], 0).ready()


def _photo(kind: str, number: int) -> bytes:
    if kind == "text":
        return f"photo {number}".encode() * 100
    whole = stamped(scene(0.3, 0 if kind == "no face" else 1, 256, seed=number % 16), number)
    return whole[: len(whole) // 2] if kind == "cut" else whole


def _counted(found: Iterable[str]) -> str:
    counts = Counter(found)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _told(seen: Sequence[tuple[float, float]]) -> str:
    values = [mib for _, mib in seen if mib]
    late = values[len(values) // 2 :]
    least, most = min(late, default=0), max(late, default=0)
    return f"largest {max(values, default=0):.0f} MiB, second half of the time {least:.0f} to {most:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run, return the exit status: 1 when a job was lost or ended wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, metavar="S", help="default: 1200")
    parser.add_argument("--per-s", type=float, default=0.5, metavar="N", help="jobs a second; default: 0.5")
    parser.add_argument("--kill-every-s", type=float, default=30.0, metavar="S", help="on average; default: 30")
    parser.add_argument("--gateways", type=int, default=2, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals and accidents")
    given = parser.parse_args(arguments)
    settings = {"LATENT_PMRF_LEASE_S": "5", "LATENT_PMRF_MAX_DELIVERIES": "20"}
    with (
        tempfile.TemporaryDirectory(prefix="soak") as folder,
        fleet(Path(folder), given.gateways, given.workers, settings) as running,
    ):
        diary = asyncio.run(soak(running, given.seconds, given.per_s, given.kill_every_s, given.seed))
    members = f"{given.gateways} gateways and {given.workers} workers"
    sys.stdout.write(f"{members}, {given.per_s:g} jobs a second for {given.seconds:g} s:\n\n{diary.as_markdown()}\n")
    return int(any(ending.found != ending.expected for ending in diary.endings))


if __name__ == "__main__":
    sys.exit(main())
