"""A worker of the real parts, in a process of its own, whose networks take their time, or cannot bear a white face.

python -m tests.odd_worker [--call-s SECONDS] [--dies | --hangs]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading

from rich.console import Console

from service.backends.ort_session import OrtBackend
from service.composition.http import tcp_socket
from service.composition.worker import restore_faces
from service.core.settings import load_settings

_WHITE = 0.99


def main() -> int:
    """Work until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--call-s", type=float, default=0.0)
    parser.add_argument("--dies", action="store_true")
    parser.add_argument("--hangs", action="store_true")
    given = parser.parse_args()

    class OddBackend(OrtBackend):
        async def infer(self, network, inputs):
            if network == "estimator" and (inputs["image"].mean(axis=(1, 2, 3)) > _WHITE).any():
                if given.dies:
                    os._exit(1)
                if given.hangs:
                    await asyncio.to_thread(threading.Event().wait)
            await asyncio.sleep(given.call_s)
            return await super().infer(network, inputs)

    async def networks(settings, manifest, metrics):
        threads = settings.inference_threads
        return OddBackend(manifest, settings.model_repository, threads, metrics=metrics, only=manifest.networks)

    console = Console(stderr=True)
    with tcp_socket("127.0.0.1") as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ended = asyncio.run(restore_faces(load_settings(), listener, console.print, networks))
    return 1 if ended.failures else 0


if __name__ == "__main__":
    sys.exit(main())
