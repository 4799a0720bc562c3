"""How a job ended, as the JSON that its webhook gets; and the paths where clients find a job.

The document has the members of the Standard Webhooks scheme (type, timestamp, data). It holds no picture and no part of
one: whoever receives it fetches the result.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from service.core.jobs import Failure, JobState, Notice
from service.core.origin import Origin


def report_path(job_id: str) -> str:
    """Where the state of a restoration is, and its report."""
    return f"/v1/restorations/{job_id}"


def result_path(job_id: str) -> str:
    """Where the image of a restoration is."""
    return f"{report_path(job_id)}/result"


def events_path(job_id: str) -> str:
    """Where a restoration can be watched."""
    return f"{report_path(job_id)}/events"


def cancel_path(job_id: str) -> str:
    """Where a restoration can be withdrawn."""
    return f"{report_path(job_id)}/cancel"


def closing_notice(  # noqa: PLR0913 - what is told, and what leads to it
    job_id: str,
    webhook_url: str,
    state: JobState,
    *,
    ended_s: float,
    failure: Failure | None = None,
    origin: Origin | None = None,
    owner: str = "",
) -> Notice:
    """The notice about a job that has ended, in a final state; the same job and end give the same notice.

    The receiver is told nothing of the request that brought the job, nor of its owner.
    """
    urls = {"report": report_path(job_id)}
    if state is JobState.SUCCEEDED:
        urls["result"] = result_path(job_id)
    data: dict[str, object] = {"id": job_id, "status": state.value, "urls": urls}
    if failure is not None:
        data["error"] = {"code": failure.code, "detail": failure.detail}
    timestamp = datetime.fromtimestamp(ended_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = {"type": f"restoration.{state.value}", "timestamp": timestamp, "data": data}
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    handed_over = None if origin is None else replace(origin, sent_s=ended_s)
    return Notice(f"msg_{job_id}", webhook_url, body, origin=handed_over, owner=owner)
