"""Arguments of `latent-pmrf batch` besides the options of a photo."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(batch: argparse.ArgumentParser) -> None:
    """Declare them."""
    batch.add_argument("source", metavar="IN_DIR", help="folder of photos, with those below it")
    batch.add_argument("target", metavar="OUT_DIR", help="folder of the results")
    told = (
        "stream: the service at --server; ray: a pipeline of this machine, or of the cluster at RAY_ADDRESS, for which "
    )
    told += "IN_DIR and OUT_DIR may be addresses such as s3://BUCKET/PATH; default: stream"
    batch.add_argument("--engine", choices=("stream", "ray"), default="stream", help=told)
    batch.add_argument("--workers", metavar="N", type=_positive, default=1, help="ray: processes that run the networks")
    batch.add_argument("--server", metavar="HOST:PORT", help="where gRPC is served")
    batch.add_argument("--tls", action="store_true", help="encrypt the connection")
    batch.add_argument("--ca", metavar="FILE", type=Path, help="certificates to trust instead of the system's")
    batch.add_argument("--certificate", metavar="FILE", type=Path, help="to show to a server that asks for one")
    batch.add_argument("--private-key", metavar="FILE", type=Path, help="of --certificate")
    told = "the service's API key; default: LATENT_PMRF_API_KEY. No argument takes the key itself: others could read it"
    batch.add_argument("--api-key-file", metavar="FILE", type=Path, help=told)
    batch.add_argument("--token-file", metavar="FILE", type=Path, help="a bearer token for a proxy that asks for one")
    batch.add_argument(
        "--window",
        metavar="N",
        type=_positive,
        default=16,
        help="photos under way at once, with ray in one block; default: 16",
    )
    told = "attempts in a row before a server that does not answer is given up; default: 12"
    batch.add_argument("--attempts", metavar="N", type=_positive, default=12, help=told)
    batch.add_argument("--report", metavar="FILE", type=Path, help="a line of JSON per photo; - for standard output")
    batch.add_argument("--journal", metavar="FILE", type=Path, help="what was done; default: in OUT_DIR")
    batch.add_argument("--fresh", action="store_true", help="forget what earlier runs have done")
    batch.add_argument("--moved", action="store_true", help="IN_DIR is that of earlier runs, at another place now")
    batch.add_argument("--retry-failed", action="store_true", help="try all failed photos again, also hopeless ones")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value
