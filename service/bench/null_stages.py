"""`python -m service.bench.null_stages PHOTO`: the service, with decoder, detector and networks that cost nothing.

    PHOTO, decoded and searched once at the start -> the answer to whatever is uploaded later

What is left is form, queue, alignment, sampler, paste, encoder and answer. With `--networks` the bundle's networks are
called; with those of `service.bench.null_bundle`, what onnxruntime and its threads cost is added.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.backends.ort_session import OrtBackend
from service.bench.null_backend import NullBackend
from service.composition.gateway import StandIns, restore_photos
from service.composition.http import tcp_socket
from service.core.detector import DETECTOR
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings, load_settings
from service.core.types import DecodedImage, Face, RestoreOptions, Upload
from service.stages.decode import DecodeLimits, decode
from service.stages.detect import FaceDetector
from service.stages.samples import Samples


@dataclass(frozen=True, slots=True)
class Known:
    """A photo whose pixels and faces are known beforehand.

    Attributes:
        image: Its pixels.
        faces: Its faces.
    """

    image: DecodedImage
    faces: list[Face]

    def decode(self, _upload: Upload, _limits: DecodeLimits) -> DecodedImage:
        """The same pixels each time, in an array of their own: who pastes into them does not ask."""
        return replace(self.image, pixels=self.image.pixels.copy())

    async def detect(self, _pixels: Samples, *, det_threshold: float, min_face_px: int) -> list[Face]:  # noqa: ARG002
        """The same faces each time."""
        return self.faces


async def learn(photo: bytes, settings: Settings) -> Known:
    """Decode and search a photo with the real stages and the bundle's detector."""
    image = decode(Upload(photo), DecodeLimits.of(settings))
    repository, options = settings.model_repository, RestoreOptions()
    backend = OrtBackend(load_manifest(repository), repository, 0, metrics=Metrics(), only=(DETECTOR,))
    try:
        faces = await FaceDetector(backend).detect(
            image.pixels, det_threshold=options.det_threshold, min_face_px=options.min_face_px
        )
    finally:
        await backend.close()
    return Known(image, faces)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.bench.null_stages", description=__doc__)
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--networks", action="store_true", help="call the bundle's networks")
    given = parser.parse_args(arguments)
    settings = load_settings()
    backend = None if given.networks else NullBackend(load_manifest(settings.model_repository))
    known = asyncio.run(learn(given.photo.read_bytes(), settings))
    with tcp_socket(given.host) as listener:
        listener.bind((given.host, given.port))
        listener.listen()
        ended = asyncio.run(
            restore_photos(
                settings,
                listener,
                lambda text: print(text, flush=True),  # noqa: T201 - for whoever started it
                with_worker=True,
                stand_ins=StandIns(known.decode, known, backend),
            )
        )
    return int(bool(ended.failures))


if __name__ == "__main__":
    sys.exit(main())
