"""gRPC of real processes: where it listens, how it ends, and one stream while workers are killed.

The environment variable STREAM_PHOTOS says how many photos the stream has.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections import deque
from pathlib import Path

import grpc
import pytest

from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceStub
from tests.fleet import until_ready
from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import command, connect, environment, service_process, spawn, until

pytestmark = pytest.mark.timeout(600)

PHOTOS = int(os.environ.get("STREAM_PHOTOS", "100"))
KILL_EVERY = max(30, PHOTOS // 10)
ALIGNED = pb.RestoreOptions(aligned=True)
GROWTH_BYTES = 100 * 1024 * 1024


def photos(count, setup=None):
    yield pb.RestoreBatchRequest(setup=setup or pb.BatchSetup(options=ALIGNED))
    for number in range(count):
        yield pb.RestoreBatchRequest(photo=pb.BatchPhoto(client_id=str(number), image=numbered(number)))


def until_ended(call):
    with contextlib.suppress(grpc.RpcError):
        yield from call


def peak_bytes(service):
    """Most memory that a process has held."""
    status = Path(f"/proc/{service.child.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def taken_port():
    taken = socket.create_server(("127.0.0.1", 0))
    return taken, taken.getsockname()[1]


def test_the_operator_s_port_must_be_free(arithmetic_bundle):
    taken, port = taken_port()
    with taken:
        done = subprocess.run(
            command("serve", "--port", "0"),
            env=environment(arithmetic_bundle, grpc_port=port),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 2
    assert f"LATENT_PMRF_GRPC_PORT: cannot listen on 127.0.0.1:{port}" in done.stderr


def test_the_default_port_may_be_taken(arithmetic_bundle, tmp_path):
    variables = environment(arithmetic_bundle)
    del variables["LATENT_PMRF_GRPC_PORT"]
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    with taken:
        try:
            holder = socket.create_server(("127.0.0.1", 50051))
        except OSError:
            holder = taken  # somebody else has it
        with holder:
            child = spawn(command("serve", "--port", "0"), variables, tmp_path / "log")
            try:
                with connect(child, tmp_path / "log").client as client:
                    assert client.get("/livez").json() == {"live": True}
            finally:
                child.terminate()
                assert child.wait(60) == 0
    assert "No gRPC: 127.0.0.1:50051 is taken" in (tmp_path / "log").read_text()


def test_a_signal_lets_the_photos_of_a_stream_finish(arithmetic_bundle, tmp_path):
    open_end = threading.Event()

    def without_end():
        yield from photos(20)
        open_end.wait(60)

    with service_process(arithmetic_bundle, tmp_path / "log", grpc_port=-1, slots=1) as running:
        with grpc.insecure_channel(running.rpc_address) as channel:
            call = RestorationServiceStub(channel).RestoreBatch(without_end(), timeout=100)
            answered = set()
            for response in until_ended(call):
                if response.WhichOneof("message") == "result":
                    answered.add(number_of(response.result.image))
                if len(answered) == 3:
                    running.child.send_signal(signal.SIGTERM)
            open_end.set()
        assert running.child.wait(60) == 0
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert answered >= {0, 1, 2}
    assert sorted(answered) == list(range(len(answered)))  # what was read was answered, and it was read in order


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_photo_of_a_stream_is_answered_once_while_workers_are_killed(fleet):
    settings = {"slots": 4, "cpu_workers": 1, "max_concurrent_photos": 32}
    gateway, *started = fleet.start("gateway", "worker", "worker", grpc_port=-1, **settings)
    until_ready(gateway, *started)
    workers, killed, answered = deque(started), 0, set()
    before_bytes = gateway.resident_bytes()
    with grpc.insecure_channel(gateway.rpc_address) as channel:
        for response in RestorationServiceStub(channel).RestoreBatch(photos(PHOTOS), timeout=1700):
            kind = response.WhichOneof("message")
            if kind == "opening":
                continue
            assert kind == "result", response
            number = int(response.result.client_id)
            assert number not in answered
            assert number_of(response.result.image) == number
            assert is_restored(response.result.image)
            answered.add(number)
            if len(answered) % KILL_EVERY == KILL_EVERY // 2:
                workers.popleft().kill()
                workers.extend(fleet.start("worker", **settings))
                killed += 1
    peak = peak_bytes(gateway)
    assert answered == set(range(PHOTOS))
    assert killed >= 3
    print(f"{PHOTOS} photos, {killed} workers killed, peak {peak / 2**20:.0f} MiB")  # noqa: T201 - shown with -s
    assert peak - before_bytes < GROWTH_BYTES
    until(lambda: gateway.counted("restore_queue_depth") == 0)
