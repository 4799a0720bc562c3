"""`make bench`: speed and memory of the embedded service, over HTTP, medians with spread from one run.

Times by stage are the service's own (its report's `timings_ms`), totals are the client's. A machine's load moves every
figure: compare only within one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.photos import jpeg, scene
from loadtest.process import RunningService, running_service

NETWORK_STAGES = ("estimator", "vae_encoder", "velocity", "vae_decoder")
STAGES = ("decode", "detect", "align", "queue_wait", *NETWORK_STAGES, "blend", "paste", "encode", "total")

_BATCH = 4
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """One restored photo: the client's total and the service's stages, in milliseconds."""

    total_ms: float
    stages_ms: dict[str, float]
    num_faces: int

    @property
    def overhead_ms(self) -> float:
        """Everything that is not one of the four networks of a face (the detector counts as overhead)."""
        return self.total_ms - sum(self.stages_ms.get(stage, 0.0) for stage in NETWORK_STAGES)


def post(service: RunningService, photo: bytes, **options: object) -> Answer:
    """Send one photo and take its report.

    Raises:
        httpx.HTTPStatusError: The service refused it.
    """
    begin_s = time.perf_counter()
    reply = service.client.post(
        "/restore",
        files={"image": ("photo.jpg", photo, "image/jpeg")},
        data={name: str(value) for name, value in options.items()},
        headers={"Accept": "application/json"},
    )
    total_ms = (time.perf_counter() - begin_s) * 1000
    reply.raise_for_status()
    report: dict[str, Any] = reply.json()
    return Answer(total_ms, report["timings_ms"], len(report["faces"]))


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (least-largest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def stage_table(title: str, answers: Sequence[Answer]) -> str:
    """Markdown rows of every stage."""
    lines = [f"\n### {title}\n", "| stage | ms, median (least-largest) |", "|---|---|"]
    for stage in STAGES:
        values = [answer.stages_ms[stage] for answer in answers if stage in answer.stages_ms]
        if values:
            lines.append(f"| {stage} | {spread(values, 1)} |")
    lines.append(f"| client's total | {spread([answer.total_ms for answer in answers], 1)} |")
    lines.append(f"| overhead: total less networks | {spread([answer.overhead_ms for answer in answers], 1)} |")
    return "\n".join(lines)


def memory_table(service: RunningService, photo: bytes, requests: int, at_rest_bytes: int) -> str:
    """Resident memory over `requests` requests, and its slope over the second half."""
    marks: list[tuple[int, float]] = []
    for done in range(1, requests + 1):
        post(service, photo, num_steps=1)
        if done % max(1, requests // 20) == 0:
            marks.append((done, service.resident_bytes() / _MIB))
    later = marks[len(marks) // 2 :]
    slope = float(np.polyfit([done for done, _ in later], [mib for _, mib in later], 1)[0]) if len(later) > 1 else 0.0
    lines = [
        "\n### Resident memory\n",
        "| when | MiB |",
        "|---|---|",
        f"| ready, no request yet | {at_rest_bytes / _MIB:.0f} |",
    ]
    lines += [f"| after {done} more requests | {mib:.0f} |" for done, mib in marks[:: max(1, len(marks) // 4)]]
    lines.append(f"| slope over the second half, per 100 requests | {100 * slope:+.2f} |")
    return "\n".join(lines)


def run(repeats: int, requests: int, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Measure everything, telling each table as it is done."""
    options = {} if num_steps is None else {"num_steps": num_steps}
    one, group, large = jpeg(scene(3, 1)), jpeg(scene(3, _BATCH)), jpeg(scene(12, 1, face_px=1200))
    say(f"# Bench\n\n{_machine()}")
    # Finished results are kept for an hour; here they would hide what the pipeline itself holds on to.
    with running_service({"LATENT_PMRF_RESULT_CACHE_BYTES": "0"}) as service:
        at_rest_bytes = service.resident_bytes()
        limits = service.client.get("/v1/limits").json()
        say(f"\nModel {limits['model']}; ready {service.start_s:.1f} s after the process was started.")
        post(service, one, **options)  # the first call pays for what is done once
        say(stage_table("3 megapixels, one face", [post(service, one, **options) for _ in range(repeats)]))
        answers = [post(service, group, **options) for _ in range(repeats)]
        if any(answer.num_faces != _BATCH for answer in answers):
            raise RuntimeError(f"expected {_BATCH} faces, the service reports {answers[0].num_faces}")
        say(stage_table(f"3 megapixels, {_BATCH} faces in one photo (one batch)", answers))
        per_face = [answer.total_ms / _BATCH for answer in answers]
        say(f"\nPer face in that photo: {spread(per_face)} ms.")
        say(stage_table("12 megapixels, one large face", [post(service, large, **options) for _ in range(repeats)]))
        say(_concurrent(service, one, repeats, options))
        say(memory_table(service, one, requests, at_rest_bytes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the bench, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="photos per table")
    parser.add_argument("--requests", type=int, default=200, help="photos of the memory table")
    parser.add_argument("--num-steps", type=int, help="steps of the flow; default: the bundle's")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    run(given.repeats, given.requests, given.num_steps, say)
    return 0


def _concurrent(service: RunningService, photo: bytes, repeats: int, options: dict[str, int]) -> str:
    """Photos of different requests at once against the same photos one after another."""
    with ThreadPoolExecutor(_BATCH) as pool:
        together_s, apart_s = [], []
        for _ in range(max(3, repeats // 3)):
            begin_s = time.perf_counter()
            list(pool.map(lambda _: post(service, photo, **options), range(_BATCH)))
            together_s.append(time.perf_counter() - begin_s)
            begin_s = time.perf_counter()
            for _ in range(_BATCH):
                post(service, photo, **options)
            apart_s.append(time.perf_counter() - begin_s)
    ratios = [apart / together for apart, together in zip(apart_s, together_s, strict=True)]
    return (
        f"\n{_BATCH} such requests at once take {spread(together_s, 2)} s, one after another {spread(apart_s, 2)} s: "
        f"{spread(ratios, 2)} times as fast at once."
    )


def _machine() -> str:
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else model}, {os.cpu_count()} cores, Python {platform.python_version()}."


if __name__ == "__main__":
    sys.exit(main())
