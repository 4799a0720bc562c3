"""Clients that live longer than the service they began with: another one at its address may accept something else."""

import contextlib
import json
from http.server import BaseHTTPRequestHandler

import pytest

from service.client import AsyncGrpcClient, AsyncHttpClient, RestorationError, Retry
from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceServicer
from tests.scripted_servers import grpc_server, http_server

LIMITS = {
    **dict.fromkeys(("max_image_px", "min_image_side_px", "max_output_px", "max_faces", "max_queued_photos"), 9),
    **dict.fromkeys(("request_timeout_s", "job_timeout_s", "result_ttl_s"), 9.0),
    **{"model": "m@1", "input_formats": [], "output_formats": [], "webhooks": False},
    "options": {"num_steps": {"maximum": 9, "default": 1}, "fidelity": {"default": 0.5}},
}


class OverHttp(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("application/json", json.dumps({**LIMITS, "max_upload_bytes": self.server.most.bytes}).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer("image/png", b"restored")

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


class Most:
    """The largest photo that the service takes."""

    bytes = 10


@contextlib.contextmanager
def over_http(most):
    with http_server(OverHttp, most=most) as (_, url):
        yield AsyncHttpClient(url, retry=Retry(attempts=1))


@contextlib.contextmanager
def over_grpc(most):
    class OverGrpc(RestorationServiceServicer):
        def GetLimits(self, _request, _context):
            return pb.GetLimitsResponse(max_upload_bytes=most.bytes, max_message_bytes=1 << 20)

        def Restore(self, _request, _context):
            report = pb.Report(output_format=pb.OUTPUT_FORMAT_PNG)
            return pb.RestoreResponse(image=b"restored", report=report)

    with grpc_server(OverGrpc()) as address:
        yield AsyncGrpcClient(address, retry=Retry(attempts=1))


@pytest.mark.parametrize("serving", [over_http, over_grpc])
async def test_a_photo_that_was_too_large_for_the_service_before_is_taken_by_the_next(serving):
    most = Most()
    with serving(most) as made:
        async with made as client:
            with pytest.raises(RestorationError) as refused:
                await client.restore(bytes(20))
            assert refused.value.code == "upload_too_large"
            most.bytes = 100
            assert (await client.restore(bytes(20))).image == b"restored"
