"""The log's line about a request: as many methods and paths as the service has, whatever callers send."""

import logging

import pytest

from service.api.correlation import CorrelateRequests
from service.core.metrics import Metrics


async def answered(caplog, method="GET", path="/livez/no", *, status=200, error=None):
    """The line about one request, and the headers of its answer."""
    caplog.set_level(logging.DEBUG, "service.api.correlation")
    sent = []

    async def app(_scope, _receive, send):
        if error is not None:
            raise error
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"key=secret", "headers": []}
    try:
        await CorrelateRequests(app, Metrics())(scope, None, send)
    except ZeroDivisionError:
        assert error is not None
    (record,) = caplog.records
    return record, dict(sent[0]["headers"]) if sent else {}


@pytest.mark.parametrize(
    ("method", "told"),
    [("GET", "GET"), ("PATCH", "PATCH"), ("BREW", "_OTHER"), ("get", "_OTHER"), ("A" * 999, "_OTHER")],
)
async def test_methods_that_do_not_exist_are_one(caplog, method, told):
    record, headers = await answered(caplog, method)
    assert record.fields["method"] == told
    assert headers[b"x-request-id"]


async def test_a_path_that_leads_nowhere_is_not_told(caplog):
    record, _ = await answered(caplog, path="/v1/restorations/an-id", status=404)
    assert (record.fields["route"], record.fields["status"]) == ("unmatched", 404)
    assert "an-id" not in str(vars(record))
    assert "secret" not in str(vars(record))


@pytest.mark.parametrize(
    ("path", "level"), [("/livez", "DEBUG"), ("/readyz", "DEBUG"), ("/metrics", "DEBUG"), ("/restore", "INFO")]
)
async def test_probes_are_told_to_who_looks_closely(caplog, path, level):
    record, _ = await answered(caplog, path=path)
    assert record.levelname == level


async def test_a_request_that_ends_in_an_error_has_failed(caplog):
    record, _ = await answered(caplog, error=ZeroDivisionError("a defect"))
    assert record.fields["status"] == 500
