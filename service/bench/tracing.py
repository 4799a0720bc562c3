"""`python -m service.bench.tracing`: processor time of a photo with traces off, a twentieth of them kept, and all.

    the same photos in turns -> service without traces | with a twentieth | with all -> ms of processor time a photo

The services run side by side and take turns, so that a machine that becomes slower does so for all of them; processor
time is told by the process itself (`/metrics`), so that others on the machine do not count. Spans go to a sink that
reads and forgets them.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from loadtest.photos import jpeg, portrait_photo, scene
from loadtest.process import RunningService, running_service
from service.bench.tables import ratios_table

_CPU_S = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_OFF = "no traces"


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """A collector that forgets; the value is its address."""

    class Forgetting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetting) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def measure(
    services: Mapping[str, RunningService], photo: bytes, options: Mapping[str, str], *, count: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of processor time a photo, by way, of each round after an unmeasured one.

    Raises:
        httpx.HTTPStatusError: A photo was not restored.
    """
    spent_ms: dict[str, list[float]] = {way: [] for way in services}
    ways = list(services)
    for number in range(rounds + 1):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:  # whoever comes after another finds a machine that is another one's
            service = services[way]
            begin_s = _cpu_s(service)
            for _ in range(count):
                service.client.post("/restore", files={"image": photo}, data=dict(options)).raise_for_status()
            if number:
                spent_ms[way].append((_cpu_s(service) - begin_s) * 1000 / count)
    return spent_ms


def _cpu_s(service: RunningService) -> float:
    found = _CPU_S.search(service.client.get("/metrics").raise_for_status().text)
    if found is None:
        raise RuntimeError("the service does not tell its processor time")
    return float(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the bench, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.bench.tracing", description=__doc__)
    parser.add_argument("--photos", type=int, default=10, metavar="N", help="of a round")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--megapixels", type=float, default=0.3, metavar="M", help="of a photo, with one face")
    parser.add_argument("--num-steps", type=int, default=10, metavar="N")
    parser.add_argument("--aligned", action="store_true", help="send a face alone: no detection")
    given = parser.parse_args(arguments)
    photo = jpeg(portrait_photo() if given.aligned else scene(given.megapixels, 1))
    with sink() as address, contextlib.ExitStack() as stack:
        common = {"LATENT_PMRF_GRPC_PORT": "0", "LATENT_PMRF_RESULT_CACHE_BYTES": "0"}
        sent = {**common, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        ways = {_OFF: common, "a twentieth of traces": {**sent, **ratio}, "all traces": sent}
        services = {way: stack.enter_context(running_service(settings)) for way, settings in ways.items()}
        options = {"seed": "0", "num_steps": str(given.num_steps), "aligned": str(given.aligned).lower()}
        spent_ms = measure(services, photo, options, count=given.photos, rounds=given.rounds)
    table = ratios_table("ms of processor time a photo", spent_ms, _OFF, decimals=1, of_ratios=3)
    sys.stdout.write(
        f"{given.photos} {'aligned faces' if given.aligned else f'photos of {given.megapixels:g} megapixels'} a round, "
        f"{given.rounds} rounds, {given.num_steps} steps\n\n{table}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
