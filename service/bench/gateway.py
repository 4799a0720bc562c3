"""`make bench-gateway`: what the service does besides networks, and how fast, with networks that cost nothing.

    a service of its own -> photos in a row: milliseconds by stage
                         -> photos side by side: photos a second, and processor time of each

With a backend, a decoder and a detector that cost nothing; then with networks that cost nothing, called in onnxruntime;
then with the real decoder and detector. The sender is on the same machine, and its processor time is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import post
from loadtest.photos import jpeg, scene
from loadtest.process import SERVE, RunningService, running_service
from loadtest.traffic.mix import MixedPhoto
from loadtest.traffic.offer import saturate
from loadtest.traffic.senders import HttpSender
from service.bench.null_bundle import write_null_bundle
from service.core.manifest import load_manifest

_DETECTOR = Path("detector/1/model.onnx")
_NULL_STAGES = ("-m", "service.bench.null_stages")
_WARM_UP = 20
_STAGES = ("decode", "detect", "align", "queue_wait", "blend", "paste", "encode")


@dataclass(frozen=True, slots=True)
class Measured:
    """One bundle.

    Attributes:
        name: Which.
        total_ms: Of each photo in a row, as the sender sees it.
        stages_ms: The same by stage, as the service tells it.
        per_s: Photos a second, side by side.
        service_ms: Processor time of the service a photo then, its decoders' included.
        sender_ms: That of the sender.
    """

    name: str
    total_ms: list[float]
    stages_ms: dict[str, list[float]]
    per_s: float
    service_ms: float
    sender_ms: float

    def rows(self) -> tuple[str, str]:
        """Its lines of the two tables."""
        median = statistics.median
        stages = [median(self.stages_ms[stage]) for stage in _STAGES]
        rest = median(self.total_ms) - sum(stages)
        cells = [f"{value:.1f}" for value in (*stages, rest, median(self.total_ms))]
        busy = f"{self.per_s:.1f} | {self.service_ms:.1f} | {self.sender_ms:.1f}"
        return f"| {self.name} | {' | '.join(cells)} |", f"| {self.name} | {busy} |"


def measure(name: str, service: RunningService, photo: bytes, count: int, at_once: int) -> Measured:
    """Photos in a row, then side by side."""
    for _ in range(_WARM_UP):
        post(service, photo)
    answers = [post(service, photo) for _ in range(count)]
    before_s, own_s = service.processor_s(), time.process_time()
    per_s = asyncio.run(_saturated(service, photo, 4 * count, at_once))
    sender_s, service_s = time.process_time() - own_s, service.processor_s() - before_s
    return Measured(
        name=name,
        total_ms=[answer.total_ms for answer in answers],
        stages_ms={stage: [answer.stages_ms.get(stage, 0.0) for answer in answers] for stage in _STAGES},
        per_s=per_s,
        service_ms=service_s * 1000 / (4 * count),
        sender_ms=sender_s * 1000 / (4 * count),
    )


async def _saturated(service: RunningService, photo: bytes, count: int, at_once: int) -> float:
    sender = HttpSender(str(service.client.base_url))
    try:
        return await saturate(sender, [MixedPhoto("photo", photo, 1)], [0] * count, at_once)
    finally:
        await sender.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the bench, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.bench.gateway", description=__doc__)
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"), metavar="DIR")
    parser.add_argument("--photos", type=int, default=60, metavar="N", help="in a row; four times as many side by side")
    parser.add_argument("--at-once", type=int, default=8, metavar="N")
    parser.add_argument("--megapixels", type=float, default=1.0, metavar="M", help="of the photo, with one face")
    given = parser.parse_args(arguments)
    like = load_manifest(given.model_repository)
    photo = jpeg(scene(given.megapixels, 1))
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        file.write_bytes(photo)
        bundle = write_null_bundle(Path(folder) / "bundle", like, given.model_repository / _DETECTOR)
        settings = {"LATENT_PMRF_MODEL_REPOSITORY": str(bundle), "LATENT_PMRF_RESULT_CACHE_BYTES": "0"}
        commands = {
            "null backend, decoder and detector": (*_NULL_STAGES, str(file)),
            "null networks, decoder and detector": (*_NULL_STAGES, str(file), "--networks"),
            "null networks": SERVE,
        }
        for name, command in commands.items():
            with running_service(settings, command) as service:
                measured.append(measure(name, service, photo, given.photos, given.at_once))
    in_a_row, side_by_side = zip(*(each.rows() for each in measured), strict=True)
    columns = " | ".join((*_STAGES, "rest", "total"))
    sys.stdout.write(
        f"{given.megapixels:g} megapixels, one face; {given.photos} in a row, medians in ms:\n\n"
        f"| | {columns} |\n|{'---|' * (len(_STAGES) + 3)}\n" + "\n".join(in_a_row) + "\n\n"
        f"{given.at_once} at once:\n\n| | photos a second | processor time, ms a photo: service | sender |\n"
        "|---|---|---|---|\n" + "\n".join(side_by_side) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
