"""Logs and traces of a gateway and a worker in processes of their own, on a Redis: one request is one story in both."""

import contextlib
import json
import socket
import subprocess
from collections import Counter
from types import SimpleNamespace

import grpc
import pytest
from PIL import Image
from skimage.data import astronaut
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceStub
from tests.fleet import Fleet, until_ended, until_ready
from tests.numbered_photos import numbered
from tests.otlp_collector import Collector
from tests.pictures import pixels, saved
from tests.processes import command, environment, until
from tests.redis_servers import durable_server
from tests.serving import serving

pytestmark = pytest.mark.timeout(300)

TELLING = "grandma-in-lisbon-1957"
HOOK_SECRET = "whsec_" + "QUJD" * 8
SECRET = "token-that-nobody-may-see"  # noqa: S105 - it is no password
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
GRPC_TRACE = "5bf92f3577b34da6a3ce929d0e0e4736"
JOB_TRACE = "6bf92f3577b34da6a3ce929d0e0e4736"
STREAM_TRACE = "7bf92f3577b34da6a3ce929d0e0e4736"
BAD_TRACE = "8bf92f3577b34da6a3ce929d0e0e4736"
STREAM = "restoration.v1.RestorationService/RestoreBatch"
STEPS = 3
ALIGNED = {"aligned": "true", "num_steps": str(STEPS)}


def photo_with_a_past():
    """A face with position data, a camera's serial number and words in its EXIF."""
    image = Image.fromarray(pixels(128, 128))
    exif = Image.Exif()
    exif[0x010E] = TELLING
    exif[0xA431] = "serial-0815-4711"
    exif.get_ifd(0x8825)[2] = (38.0, 42.0, 50.25)
    exif.get_ifd(0x8825)[18] = TELLING
    return saved(image, "JPEG", exif=exif)


def told_by(service):
    """The lines of a process's log, each of them JSON."""
    return [json.loads(line) for line in service.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def story(arithmetic_bundle, tmp_path_factory):
    """What several requests have left behind, and their answers."""
    redis = durable_server(tmp_path_factory.mktemp("r"))
    redis.start()
    answers = SimpleNamespace()
    try:
        with pytest.MonkeyPatch.context() as patch, Collector() as collector, receiver() as hook:
            for name, value in collector.variables().items():
                patch.setenv(name, value)
            settings = {"log_format": "json", "grpc_port": -1, "webhook_secret": HOOK_SECRET}
            settings["webhook_networks"] = "127.0.0.0/8"
            with Fleet(arithmetic_bundle, tmp_path_factory.mktemp("logs"), redis, **settings) as fleet:
                gateway, worker = fleet.start("gateway", "worker")
                until_ready(gateway, worker)
                ask(gateway, answers, hook)
                ask_by_grpc(gateway, answers)
                last = {TRACE: {"POST /restore", "sampler"}, answers.detected_trace: {"POST /restore", "sampler"}}
                last |= {JOB_TRACE: {"courier", "sampler"}, GRPC_TRACE: {"sampler"}, STREAM_TRACE: {STREAM}}
                for trace, names in last.items():
                    until(lambda trace=trace, names=names: names <= {span.name for span in collector.trace(trace)})
                yield SimpleNamespace(
                    answers=answers,
                    collector=collector,
                    gateway=told_by(gateway),
                    worker=told_by(worker),
                    logs=fleet.logs(),
                    metrics=gateway.client.get("/metrics", headers={"accept": "application/openmetrics-text"}),
                )
    finally:
        redis.kill()


@contextlib.contextmanager
def receiver():
    """The address of one who takes notices."""

    async def take(_request):
        return Response(status_code=204)

    with serving(Starlette(routes=[Route("/", take, methods=["POST"])])) as address:
        yield f"{address}/?token={SECRET}"


def ask(gateway, answers, hook):
    client = gateway.client
    answers.restored = client.post(
        f"/restore?key={SECRET}",
        files={"image": (f"{TELLING}.jpg", photo_with_a_past())},
        data=ALIGNED,
        headers={"x-request-id": "req-1", "traceparent": TRACEPARENT, "authorization": f"Bearer {SECRET}"},
    )
    photo = saved(Image.fromarray(astronaut()).resize((384, 384)), "PNG")
    answers.detected = client.post("/restore", files={"image": photo}, headers={"x-request-id": "two words"})
    answers.detected_trace = answers.detected.headers["traceresponse"].split("-")[1]
    answers.refused = client.post(
        "/restore",
        files={"image": (f"{TELLING}.png", b"no photo")},
        headers={"x-request-id": "req-2", "traceparent": TRACEPARENT.replace(TRACE, BAD_TRACE)},
    )
    answers.lost = client.get(f"/%0a{TELLING}%0d%0afake?key={SECRET}")
    job = client.post(
        "/v1/restorations",
        files={"image": numbered(1)},
        data={**ALIGNED, "webhook_url": hook},
        headers={
            "prefer": "respond-async",
            "x-request-id": "req-3",
            "traceparent": TRACEPARENT.replace(TRACE, JOB_TRACE),
        },
    )
    answers.job_id = job.json()["id"]
    answers.job = until_ended(gateway, job.headers["location"])
    answers.broken = broken_request(gateway.port)


def broken_request(port):
    """What a caller gets who puts a line end into a header."""
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(b"GET /v1/limits HTTP/1.1\r\nhost: a\r\nx-request-id: a\x0bb\x85c\r\nconnection: close\r\n\r\n")
        return caller.makefile("rb").read()


def ask_by_grpc(gateway, answers):
    with grpc.insecure_channel(gateway.rpc_address) as channel:
        stub = RestorationServiceStub(channel)
        options = pb.RestoreOptions(aligned=True, num_steps=STEPS)
        metadata = (("traceparent", TRACEPARENT.replace(TRACE, GRPC_TRACE)), ("x-request-id", "req-4"))
        _, call = stub.Restore.with_call(pb.RestoreRequest(image=numbered(2), options=options), metadata=metadata)
        answers.grpc_metadata = dict(call.trailing_metadata())
        with pytest.raises(grpc.RpcError) as refused:
            stub.Restore(pb.RestoreRequest(image=b"no photo"), metadata=(("x-request-id", "req-5"),))
        answers.grpc_refusal = dict(refused.value.trailing_metadata())
        metadata = (("traceparent", TRACEPARENT.replace(TRACE, STREAM_TRACE)), ("x-request-id", "req-6"))
        requests = [
            pb.RestoreBatchRequest(photo=pb.BatchPhoto(client_id=f"{TELLING}-{number}", image=image, options=options))
            for number, image in enumerate((numbered(3), b"no photo"))
        ]
        answers.stream = list(stub.RestoreBatch(iter(requests), metadata=metadata))


def names_below(spans, name):
    """Names of the spans whose parent has this name."""
    parents = {span.span_id for span in spans if span.name == name}
    return Counter(span.name for span in spans if span.parent_id in parents)


# Traces


def test_a_request_s_trace_goes_through_the_queue_to_every_network_call(story):
    spans = story.collector.trace(TRACE)
    request = next(span for span in spans if span.name == "POST /restore")
    assert request.parent_id == CALLER
    assert names_below(spans, "POST /restore") == {"gateway": 1}
    stages = ("decode", "align", "broker", "blend", "paste", "encode")
    assert names_below(spans, "gateway") == dict.fromkeys(stages, 1)
    assert names_below(spans, "broker") == {"queue_wait": 1, "sampler": 1}
    networks = dict.fromkeys(("estimator", "vae_encoder", "velocity", "vae_decoder"), 1)
    assert names_below(spans, "sampler") == networks
    assert {span.service for span in spans if span.name in {"sampler", *networks}} == {"latent-pmrf-worker"}
    assert request.service == "latent-pmrf-gateway"


def test_each_step_is_an_event_with_the_size_of_its_batch(story):
    (velocity,) = [span for span in story.collector.trace(TRACE) if span.name == "velocity"]
    assert [name for name, _ in velocity.events] == ["step"] * STEPS
    assert {attributes["restore.batch_size"] for _, attributes in velocity.events} == {1}


def test_spans_say_what_was_done(story):
    spans = {span.name: span for span in story.collector.trace(TRACE)}
    assert spans["POST /restore"].attributes == {
        "http.request.method": "POST",
        "http.route": "/restore",
        "http.response.status_code": 200,
    }
    assert spans["gateway"].attributes == {
        "restore.lane": "interactive",
        "restore.width_px": 128,
        "restore.height_px": 128,
        "restore.faces": 1,
        "restore.skipped": 0,
        "restore.num_steps": STEPS,
        "restore.outcome": "succeeded",
    }
    assert spans["sampler"].attributes["restore.outcome"] == "restored"


def test_the_detector_s_calls_are_in_the_trace_of_their_photo(story):
    spans = story.collector.trace(story.answers.detected_trace)
    assert set(names_below(spans, "detect")) == {"detector"}


def test_children_lie_within_their_parents(story):
    spans = story.collector.trace(TRACE)
    parents = {span.span_id: span for span in spans}
    slack_ns = 2_000_000  # two clocks are read: one to begin a span, and one to say when that was
    for span in spans:
        if span.parent_id in parents:
            parent = parents[span.parent_id]
            assert span.begin_ns >= parent.begin_ns - slack_ns
            assert span.end_ns <= parent.end_ns + slack_ns, (span.name, parent.name)


def test_a_refusal_is_the_caller_s_error_and_not_ours(story):
    spans = {span.name: span for span in story.collector.trace(BAD_TRACE)}
    assert spans["decode"].attributes["error.type"] == "unsupported_format"
    assert spans["gateway"].attributes["restore.outcome"] == "unsupported_format"
    assert not any(span.is_error for span in spans.values())


def test_a_job_belongs_to_the_trace_of_the_request_that_brought_it(story):
    spans = story.collector.trace(JOB_TRACE)
    assert names_below(spans, "POST /v1/restorations") == {"queue_wait": 2, "runner": 1, "courier": 1}
    assert names_below(spans, "runner") == {"gateway": 1}
    assert names_below(spans, "broker") == {"queue_wait": 1, "sampler": 1}
    (courier,) = [span for span in spans if span.name == "courier"]
    assert courier.attributes == {"restore.attempt": 0, "restore.outcome": "delivered"}


def test_grpc_honours_traceparent(story):
    spans = story.collector.trace(GRPC_TRACE)
    assert next(span for span in spans if span.parent_id == CALLER).name == "restoration.v1.RestorationService/Restore"
    assert "velocity" in {span.name for span in spans}


def test_each_photo_of_a_stream_is_a_trace_of_its_own_linked_to_the_stream(story):
    (call,) = story.collector.trace(STREAM_TRACE)
    photos = [span for span in story.collector.spans if span.name == "stream"]
    assert len({span.trace_id for span in photos} - {STREAM_TRACE}) == 2
    assert {span.links for span in photos} == {((STREAM_TRACE, call.span_id),)}
    assert {span.attributes["restore.outcome"] for span in photos} == {"succeeded", "unsupported_format"}
    assert not any(span.is_error for span in photos)


def test_no_span_is_without_its_trace_s_beginning(story):
    def orphans():
        spans = list(story.collector.spans)
        ids = {span.span_id for span in spans}
        return {span.name for span in spans if span.parent_id not in {*ids, "", CALLER}}

    with contextlib.suppress(RuntimeError):
        until(lambda: not orphans())  # a worker tells of a call before it tells of the stay that the call was part of
    assert orphans() == set()


def test_probes_leave_no_traces(story):
    assert {span.name for span in story.collector.spans if "/readyz" in span.name or "/metrics" in span.name} == set()


# Answers


def test_answers_lead_to_logs_and_traces(story):
    assert story.answers.restored.status_code == 200
    assert story.answers.restored.headers["x-request-id"] == "req-1"
    assert story.answers.restored.headers["traceresponse"].startswith(f"00-{TRACE}-")
    problem = story.answers.refused.json()
    assert (problem["request_id"], problem["trace_id"]) == ("req-2", BAD_TRACE)


def test_a_request_id_that_cannot_stand_in_a_log_is_replaced(story):
    replaced = story.answers.detected.headers["x-request-id"]
    assert len(replaced) == 32
    assert int(replaced, 16)


def test_grpc_tells_the_same_in_its_trailers(story):
    assert story.answers.grpc_metadata["x-request-id"] == "req-4"
    assert story.answers.grpc_metadata["traceresponse"].startswith(f"00-{GRPC_TRACE}-")
    assert story.answers.grpc_refusal["x-request-id"] == "req-5"


def test_a_failure_within_a_stream_tells_its_own_trace(story):
    (failure,) = [answer.failure for answer in story.answers.stream if answer.HasField("failure")]
    known = dict(failure.error.metadata)
    assert known["request_id"] == "req-6"
    assert known["trace_id"] in {span.trace_id for span in story.collector.spans if span.name == "stream"}


# Logs


def test_every_line_is_an_object_with_the_same_beginning(story):
    for line in story.gateway + story.worker:
        assert list(line)[:4] == ["timestamp", "level", "logger", "message"]
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(("request_id", "trace"), [("req-1", TRACE), ("req-3", JOB_TRACE), ("req-4", GRPC_TRACE)])
def test_both_processes_tell_of_a_request_by_its_ids(story, request_id, trace):
    for lines in (story.gateway, story.worker):
        assert {line["trace_id"] for line in lines if line.get("request_id") == request_id} == {trace}


def test_the_photo_s_end_is_told_once(story):
    of_request = [line for line in story.gateway if line.get("request_id") == "req-1"]
    (ended,) = [line for line in of_request if line["logger"] == "service.core.photo_log"]
    assert (ended["outcome"], ended["faces"], ended["width_px"]) == ("succeeded", 1, 128)
    (face,) = [line for line in story.worker if line.get("request_id") == "req-1"]
    assert (face["message"], face["num_steps"], face["face_index"]) == ("a face is restored", STEPS, 0)
    assert face["span_id"] in {span.span_id for span in story.collector.trace(TRACE) if span.name == "sampler"}


def test_answers_are_told_by_the_route_s_template(story):
    answered = [line for line in story.gateway if line["logger"] == "service.api.correlation"]
    assert {(line["method"], line["route"], line["status"]) for line in answered} >= {
        ("POST", "/restore", 200),
        ("POST", "/restore", 415),
        ("GET", "unmatched", 404),
        ("GET", "/v1/restorations/{restoration_id}", 200),
    }


def test_nothing_of_a_photo_its_name_or_a_secret_is_in_logs_or_spans(story):
    spans = b"".join(story.collector.bodies)
    for secret in (TELLING, SECRET, "serial-0815", "lisbon", story.answers.job_id, "fake", "no photo"):
        assert secret not in story.logs
        assert secret.encode() not in spans


@pytest.mark.parametrize(
    "wrong", [{"redis_url": ""}, {"slots": "none"}, {"redis_url": "redis://127.0.0.1", "slotz": 1}]
)
def test_a_refusal_to_start_is_a_line_too(arithmetic_bundle, wrong):
    variables = environment(arithmetic_bundle, log_format="json", **wrong)
    done = subprocess.run(command("worker"), env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["level"] == "error"


def test_headers_cannot_break_a_line(story):
    assert story.answers.broken.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert "\x0b" not in story.logs
    assert "\x85" not in story.logs


# Exemplars


def test_durations_carry_the_trace_of_one_of_their_requests(story):
    assert story.metrics.headers["content-type"].startswith("application/openmetrics-text")
    lines = [line for line in story.metrics.text.splitlines() if "seconds_bucket{le=" in line or "_bucket{" in line]
    told = [line.partition(" # ")[2] for line in lines if 'route="/restore"' in line and " # " in line]
    assert told
    known = {span.trace_id for span in story.collector.spans}
    assert {line.partition('trace_id="')[2][:32] for line in told} <= known
