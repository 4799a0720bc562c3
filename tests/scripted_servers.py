"""Servers on real connections that answer as a test says, each in threads of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from service.rpc.restoration_pb2_grpc import RestorationServiceServicer, add_RestorationServiceServicer_to_server


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler], **facts: Any) -> Iterator[tuple[Any, str]]:
    """An HTTP server and its address; its handlers find the facts as attributes of `self.server`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        vars(server).update(facts)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def grpc_server(
    servicer: RestorationServiceServicer, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """The address of a gRPC server with this servicer."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        add_RestorationServiceServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()
