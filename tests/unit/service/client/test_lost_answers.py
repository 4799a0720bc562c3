"""Clients whose service did what was asked and whose answer was lost: they ask again, and nothing has gone wrong."""

import asyncio
import contextlib
import json
from http.server import BaseHTTPRequestHandler

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from service.client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    HttpClient,
    RestorationError,
    Retry,
)
from service.client.retry import retried, until_gone
from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceServicer
from tests.scripted_servers import grpc_server, http_server

AT_ONCE = Retry(attempts=3, first_s=0.0)
LOST, DONE, UNKNOWN = "lost", "done", "not_found"  # what becomes of a call; the second is an answer


class OverHttp(BaseHTTPRequestHandler):
    """Ends each call as its server's script says."""

    protocol_version = "HTTP/1.1"

    def do_DELETE(self):
        match self.server.script.pop(0):
            case "lost":
                self.close_connection = True
            case "done":
                self.send_response(204)
                self.end_headers()
            case code:
                self.refuse(code)

    def refuse(self, code):
        body = json.dumps({"code": code, "title": "Not found", "detail": "gone", "retryable": False}).encode()
        self.send_response(404)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


class OverGrpc(RestorationServiceServicer):
    """Likewise."""

    def __init__(self, script):
        self.script = script

    def Delete(self, request, context):
        self.end(self.script.pop(0), context)
        return pb.DeleteResponse()

    def end(self, what, context):
        match what:
            case "lost":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
            case "done":
                return
            case code:
                status, packed = Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="gone"), Any()
                packed.Pack(ErrorInfo(reason=code.upper(), domain="latent-pmrf", metadata={"code": code}))
                status.details.append(packed)
                context.abort_with_status(rpc_status.to_status(status))

    def Restore(self, request, context):
        raise NotImplementedError

    Get = Watch = Cancel = GetLimits = GetResult = Submit = RestoreBatch = Restore


@contextlib.contextmanager
def over_http(script):
    with http_server(OverHttp, script=script) as (_, url):
        yield url


def over_grpc(script):
    return grpc_server(script if isinstance(script, OverGrpc) else OverGrpc(script))


def delete_blocking(kind, address):
    with kind(address, retry=AT_ONCE) as client:
        client.delete("a")


def delete_in_a_loop(kind, address):
    async def delete():
        async with kind(address, retry=AT_ONCE) as client:
            await client.delete("a")

    asyncio.run(delete())


CLIENTS = [
    pytest.param(over_http, delete_blocking, HttpClient, id="http"),
    pytest.param(over_http, delete_in_a_loop, AsyncHttpClient, id="http-async"),
    pytest.param(over_grpc, delete_blocking, GrpcClient, id="grpc"),
    pytest.param(over_grpc, delete_in_a_loop, AsyncGrpcClient, id="grpc-async"),
]


@pytest.mark.parametrize(("serving", "delete", "kind"), CLIENTS)
@pytest.mark.parametrize("script", [[DONE], [LOST, DONE], [LOST, UNKNOWN], [LOST, LOST, UNKNOWN]], ids="-".join)
def test_what_is_gone_after_a_lost_answer_is_deleted(serving, delete, kind, script):
    left = list(script)
    with serving(left) as address:
        delete(kind, address)
    assert left == []


@pytest.mark.parametrize(("serving", "delete", "kind"), CLIENTS)
def test_what_was_never_there_is_not_found(serving, delete, kind):
    left = [UNKNOWN, DONE]
    with serving(left) as address, pytest.raises(RestorationError) as refused:
        delete(kind, address)
    assert refused.value.code == "not_found"
    assert left == [DONE]


@pytest.mark.parametrize(
    ("first", "is_deleted"),
    [
        ("http_error", True),  # a proxy's: 502, 504
        ("dependency_unavailable", True),  # the queue's server may have done it
        ("rate_limited", False),
        ("draining", False),
    ],
)
async def test_an_answer_that_says_it_was_not_done_is_no_lost_one(first, is_deleted):
    ends = [
        RestorationError("later", code=first, title="t", retryable=True),
        RestorationError("gone", code="not_found", title="t"),
    ]

    async def attempt(_left_s):
        raise ends.pop(0)

    refused = contextlib.nullcontext() if is_deleted else pytest.raises(RestorationError, match="gone")
    with refused:
        await retried(until_gone(attempt), AT_ONCE, 10)
    assert ends == []


class Apart(OverGrpc):
    """Restores; the image has to be fetched."""

    restored = 0

    def GetLimits(self, request, context):
        return pb.GetLimitsResponse(max_upload_bytes=1000, max_message_bytes=65536)

    def Restore(self, request, context):
        self.restored += 1
        return pb.RestoreResponse(report=pb.Report(id="r", output_format=pb.OUTPUT_FORMAT_PNG))

    def GetResult(self, request, context):
        self.end(self.script.pop(0), context)
        yield pb.GetResultResponse(data=b"image", report=pb.Report(id="r", output_format=pb.OUTPUT_FORMAT_PNG))


@pytest.mark.parametrize(
    ("script", "restored"), [([LOST, DONE], 1), ([LOST, LOST, DONE], 1), ([LOST, UNKNOWN, DONE], 2)], ids=str
)
async def test_a_result_that_is_lost_on_its_way_is_fetched_again_and_not_restored_again(script, restored):
    """Unless it is gone meanwhile."""
    servicer = Apart(list(script))
    with over_grpc(servicer) as address:
        async with AsyncGrpcClient(address, retry=AT_ONCE) as client:
            assert (await client.restore(b"photo")).image == b"image"
    assert (servicer.script, servicer.restored) == ([], restored)


async def test_a_result_that_is_lost_each_time_is_restored_once():
    servicer = Apart([LOST] * AT_ONCE.attempts)
    with over_grpc(servicer) as address:
        async with AsyncGrpcClient(address, retry=AT_ONCE) as client:
            with pytest.raises(RestorationError):
                await client.restore(b"photo")
    assert (servicer.script, servicer.restored) == ([], 1)
