"""A Python client of the service, over HTTP and gRPC, with and without an event loop.

It needs httpx and grpcio, and nothing of the service but the generated messages.
"""

from service.client.blocking import GrpcClient, HttpClient
from service.client.errors import RestorationError, ServerUnreachable
from service.client.interface import AsyncRestorationClient
from service.client.options import Options
from service.client.over_grpc import AsyncGrpcClient
from service.client.over_http import AsyncHttpClient
from service.client.results import Answer, Face, Job, Limits, Photo, Progress, Report, Restored
from service.client.retry import Retry

__all__ = [
    "Answer",
    "AsyncGrpcClient",
    "AsyncHttpClient",
    "AsyncRestorationClient",
    "Face",
    "GrpcClient",
    "HttpClient",
    "Job",
    "Limits",
    "Options",
    "Photo",
    "Progress",
    "Report",
    "RestorationError",
    "Restored",
    "Retry",
    "ServerUnreachable",
]
