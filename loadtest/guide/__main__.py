"""`make guide`: writes docs/API.md from a service that it starts, the proto file and the examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.guide.grpc_reference import grpc_reference
from loadtest.guide.http_reference import http_reference, problem_codes
from loadtest.guide.markdown import paragraphs
from loadtest.process import running_service

EXAMPLES = Path(__file__).with_name("examples.md")
PROTO = Path("service/rpc/restoration.proto")


def guide(document: dict[str, Any], proto: str, examples: str) -> str:
    """The whole page.

    Args:
        document: OpenAPI, as the service tells it.
        proto: Text of the proto file.
        examples: Its beginning.
    """
    codes = paragraphs(
        "## Problem codes",
        "The same codes over HTTP, as `code` of `application/problem+json`, and over gRPC, in capitals, as the reason "
        "of `google.rpc.ErrorInfo`. `GET /problems/{code}` explains one.",
        problem_codes(document),
    )
    return paragraphs(examples, codes, http_reference(document), grpc_reference(proto)) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, write the page, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.guide", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/API.md"), metavar="FILE", help="default: docs/API.md")
    given = parser.parse_args(arguments)
    with running_service({"LATENT_PMRF_GRPC_PORT": "0"}) as service:
        document = service.client.get("/openapi.json").raise_for_status().json()
    given.out.write_text(guide(document, PROTO.read_text("utf-8"), EXAMPLES.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
