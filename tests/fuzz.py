"""`make fuzz`: hostile files by the thousand, through the decoders' processes and the encoder, and over HTTP.

    hostile_file(number) -> DecoderPool -> encode           every case
                         -> POST /restore of a service      one in --http-every

Ends with 1 where anything but a photo or an error of the photo came back, where a decoder's process crashed or anything
grew that should not have. A case is named by its number: `--first N --cases 1` runs it alone.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil

from service.core.errors import InputError
from service.core.metrics import Metrics
from service.core.types import OutputFormat, Upload
from service.decoders.pool import DecoderPool
from service.stages.decode import DecodeLimits
from service.stages.encode import encode
from tests.hostile_files import corpus, hostile_files
from tests.processes import ServiceProcess, service_process, until
from tests.running_bundle import write_bundle

LIMITS = DecodeLimits(max_upload_bytes=1 << 20, max_image_px=400_000, min_side_px=32)
SETTINGS = {"max_upload_bytes": 1 << 21, "max_image_px": 400_000, "min_image_side_px": 32, "result_cache_bytes": 0}
BAD_OUTCOMES = ("crashed", "out_of_time", "out_of_memory", "garbled", "defect", "lost")

_CHILDREN = 2
_AT_ONCE = 3
_MARKS = 40
# Kilobytes per thousand cases, over the second half; a picture of the corpus, left each time, would be 23 times that.
_MAX_SLOPE_KB = 1024
_JUDGED_CASES = 2000  # heaps settle before
_FORMATS = tuple(OutputFormat)


@dataclass(slots=True)
class Tally:
    """What came of the cases.

    Attributes:
        outcomes: How often each, by error code or `photo`.
        failures: What should not have come, by case.
        resident: Resident bytes of the process watched, by cases done.
    """

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: dict[int, str] = field(default_factory=dict)
    resident: list[tuple[int, int]] = field(default_factory=list)

    def slope_kb(self) -> float:
        """Growth of resident memory over the second half, for a thousand cases."""
        later = self.resident[len(self.resident) // 2 :]
        if len(later) < 3:
            return 0.0
        return float(np.polyfit([done for done, _ in later], [size for _, size in later], 1)[0]) * 1000 / 1024


def decode_and_encode(pool: DecoderPool, number: int, data: bytes) -> str:
    """One case by the stages themselves: `photo`, or the code of the photo's error."""
    try:
        image = pool.decode(Upload(data), LIMITS)
    except InputError as error:
        return error.code
    if image.pixels.shape[0] * image.pixels.shape[1] > LIMITS.max_image_px:
        raise ValueError("a photo above the limit")
    encode(image, _FORMATS[number % len(_FORMATS)], 80)
    return "photo"


def post(client: httpx.Client, number: int, data: bytes) -> str:
    """One case over HTTP: `photo`, or the code of the problem document.

    Raises:
        ValueError: The service was at fault, or gave an answer that is none.
    """
    reply = client.post("/restore", files={"image": (f"photo {number}", data)}, data={"faces": "any"})
    if reply.status_code == httpx.codes.OK:
        if not reply.headers["content-type"].startswith("image/") or not reply.content:
            raise ValueError(f"an answer without a picture: {reply.headers}")
        return "photo"
    if not httpx.codes.is_client_error(reply.status_code):
        raise ValueError(f"{reply.status_code} {reply.text[:300]}")
    return str(reply.json()["code"])


def run(tally: Tally, case: Callable[[int, bytes], str], numbers: range, watched: psutil.Process) -> None:
    """Run cases, some at once; whatever they raise is a failure."""

    def attempt(number: int, data: bytes) -> None:
        try:
            tally.outcomes[case(number, data)] += 1
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.failures[number] = repr(error)

    files, between = hostile_files(numbers), max(1, len(numbers) // _MARKS)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        while some := list(itertools.islice(files, between)):
            list(threads.map(attempt, *zip(*some, strict=True)))
            done = tally.outcomes.total() + len(tally.failures)
            tally.resident.append((done, watched.memory_info().rss))


def fuzz_stages(numbers: range) -> bool:
    """Every case through decoder and encoder; whether all was well."""
    mine, tally, metrics = psutil.Process(), Tally(), Metrics()
    fds, segments = mine.num_fds(), shared_memory()
    begin_s = time.perf_counter()
    with DecoderPool(_CHILDREN, 20.0, metrics) as pool:
        pool.rehearse()
        template = psutil.Process(pool.template_pid)
        until(lambda: len(template.children()) == _CHILDREN)
        template_fds = template.num_fds()
        run(tally, partial(decode_and_encode, pool), numbers, mine)
        with contextlib.suppress(RuntimeError):  # what does not settle is told below
            until(lambda: template.num_fds() <= template_fds, patience_s=10)
        decoders = _decoders(metrics)
        left = {"the template's descriptors": template.num_fds() - template_fds}
    left |= {
        "descriptors": mine.num_fds() - fds,
        "segments in /dev/shm": len(shared_memory() - segments),
        "processes": len(mine.children(recursive=True)),
    }
    return told("stages", tally, time.perf_counter() - begin_s, decoders, left)


def fuzz_http(numbers: range, bundle: Path, log: Path) -> bool:
    """A share of the cases over HTTP; whether all was well."""
    segments = shared_memory()
    with service_process(bundle, log, **SETTINGS) as service:
        tally, child = Tally(), psutil.Process(service.child.pid)
        post(service.client, 0, corpus()[0])
        fds, begin_s = child.num_fds(), time.perf_counter()
        run(tally, partial(post, service.client), numbers, child)
        decoders = {outcome: _counted(service, outcome) for outcome in ("decoded", "refused", *BAD_OUTCOMES)}
        service.client.close()
        family = child.children(recursive=True)
        with contextlib.suppress(RuntimeError):
            until(lambda: child.num_fds() <= fds, patience_s=60)
        left = {
            "descriptors": child.num_fds() - fds,
            "zombies": sum(process.status() == psutil.STATUS_ZOMBIE for process in family if process.is_running()),
        }
    left |= {
        "processes": sum(process.is_running() for process in family),
        "segments in /dev/shm": len(shared_memory() - segments),
    }
    return told("HTTP", tally, time.perf_counter() - begin_s, decoders, left)


def told(what: str, tally: Tally, seconds: float, decoders: dict[str, int], left: dict[str, int]) -> bool:
    """Write what was seen; whether all was well."""
    cases = tally.outcomes.total() + len(tally.failures)
    out = sys.stdout.write
    out(f"\n{what}: {cases} cases in {seconds:.0f} s\n")
    out("  outcomes: " + ", ".join(f"{name} {count}" for name, count in tally.outcomes.most_common()) + "\n")
    out("  decoders: " + ", ".join(f"{name} {count}" for name, count in decoders.items()) + "\n")
    out(f"  resident memory: {tally.resident[0][1] >> 20} MiB at first, {tally.resident[-1][1] >> 20} MiB at last; ")
    out(f"{tally.slope_kb():+.0f} KiB per thousand cases over the second half\n")
    out("  left behind: " + ", ".join(f"{name} {count}" for name, count in left.items()) + "\n")
    for number, failure in sorted(tally.failures.items())[:20]:
        out(f"  FAILED case {number}: {failure}\n")
    sys.stdout.flush()
    lost = {name: decoders[name] for name in BAD_OUTCOMES if decoders[name]}
    if lost:
        out(f"  FAILED decoders: {lost}\n")
    grows = cases >= _JUDGED_CASES and tally.slope_kb() > _MAX_SLOPE_KB
    if grows:
        out("  FAILED memory grows\n")
    return not (tally.failures or lost or grows or any(count > 0 for count in left.values()))


def shared_memory() -> set[str]:
    """Names in /dev/shm."""
    return set(os.listdir("/dev/shm"))  # noqa: S108 - where segments have their names


def _decoders(metrics: Metrics) -> dict[str, int]:
    value = metrics.registry.get_sample_value
    return {
        outcome: int(value("restore_decoder_children_total", {"outcome": outcome}) or 0)
        for outcome in ("decoded", "refused", *BAD_OUTCOMES)
    }


def _counted(service: ServiceProcess, outcome: str) -> int:
    name = f'restore_decoder_children_total{{outcome="{outcome}"}}'
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in service.metrics().splitlines() if line.startswith(name)))


def main() -> int:
    """Run as told by the arguments."""
    parser = argparse.ArgumentParser("make fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--http-every", type=int, default=10, help="of so many cases one goes over HTTP, too; 0: none")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    numbers = range(given.first, given.first + given.cases)
    well = fuzz_stages(numbers)
    if given.http_every:
        with tempfile.TemporaryDirectory() as folder:
            bundle, log = write_bundle(Path(folder) / "bundle"), Path(folder) / "service.log"
            well &= fuzz_http(numbers[:: given.http_every], bundle, log)
    sys.stdout.write("\nnothing crashed, nothing leaked\n" if well else "\nNOT WELL\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
