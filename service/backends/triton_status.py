"""What an error of a Triton server means for the call it ended: gRPC status in, verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

import grpc
from tritonclient.utils import InferenceServerException

_NO_ID = "[request id: <id_unknown>]"  # calls have none: their photos' would be in the server's log


class Verdict(Enum):
    """What follows from an error."""

    ELSEWHERE = auto()
    """The server is away, ending or without the network. A call has no effects, so another may have it."""

    BUSY = auto()
    """The server has too much to do; it, or another, may have the call a little later."""

    LATE = auto()
    """The time of the call is over; perhaps the network hangs, whatever the server says of its health."""

    BROKE = auto()
    """The network failed: over this call, or for good, as on a GPU that is to be reset."""

    FAILED = auto()
    """The call itself is at fault: it would be elsewhere, too."""


VERDICTS: Mapping[grpc.StatusCode, Verdict] = {
    grpc.StatusCode.CANCELLED: Verdict.ELSEWHERE,  # by the server: a call we cancel ourselves never gets here
    grpc.StatusCode.DEADLINE_EXCEEDED: Verdict.LATE,
    grpc.StatusCode.NOT_FOUND: Verdict.ELSEWHERE,  # the model was unloaded, or a region of shared memory forgotten
    grpc.StatusCode.PERMISSION_DENIED: Verdict.ELSEWHERE,
    grpc.StatusCode.UNAUTHENTICATED: Verdict.ELSEWHERE,
    grpc.StatusCode.INTERNAL: Verdict.BROKE,
    grpc.StatusCode.UNAVAILABLE: Verdict.ELSEWHERE,
}
"""Of every other status: FAILED."""

_REFUSALS = {"exceeds maximum queue size": Verdict.BUSY, "request timeout expired": Verdict.LATE}


def status_of(error: InferenceServerException) -> grpc.StatusCode:
    """The status behind an error of the client; UNKNOWN where it had none from a server."""
    name = str(error.status() or "").removeprefix("StatusCode.")
    return grpc.StatusCode.__members__.get(name, grpc.StatusCode.UNKNOWN)


def verdict_of(error: InferenceServerException) -> Verdict:
    """What follows from an error of the client."""
    verdict = VERDICTS.get(status_of(error), Verdict.FAILED)
    if verdict is Verdict.ELSEWHERE:  # one status for servers that are away and for what their queues refuse
        said = words_of(error).lower()
        return next((meant for part, meant in _REFUSALS.items() if part in said), verdict)
    return verdict


def words_of(error: InferenceServerException) -> str:
    """What the server says, in one line."""
    said = str(error.message() or "").strip().removeprefix(_NO_ID).strip()
    return (said.splitlines() or ["no reason given"])[0][:300]
