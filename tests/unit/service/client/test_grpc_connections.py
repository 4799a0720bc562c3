"""The gRPC client against scripted servers on real connections: what is sent, lost, sent again and understood."""

import contextlib
import threading

import grpc
import pytest
import trustme
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from service.client import AsyncGrpcClient, GrpcClient, Photo, RestorationError, Retry, ServerUnreachable
from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceServicer
from tests.scripted_servers import grpc_server

AT_ONCE = Retry(attempts=3, first_s=0.0)
LIMITS = pb.GetLimitsResponse(model="m@1", max_upload_bytes=1000, max_message_bytes=65536)


class Scripted(RestorationServiceServicer):
    """Answers limits; streams end as the script of each says, with the names of the photos they have seen."""

    def __init__(self, *streams):
        self.streams = list(streams)
        self.windows = []  # of streams to come; 3 where none is left
        self.wanted = []
        self.seen = []
        self.metadata = []
        self.lock = threading.Lock()

    def GetLimits(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        return LIMITS

    def Restore(self, request, context):
        raise NotImplementedError

    Get = Watch = Cancel = Delete = GetResult = Submit = Restore

    def RestoreBatch(self, requests, context):
        with self.lock:
            script = self.streams.pop(0)
            seen = []
            self.seen.append(seen)
            window = self.windows.pop(0) if self.windows else 3
        first = next(requests)
        assert first.HasField("setup")
        self.wanted.append(first.setup.window)
        yield pb.RestoreBatchResponse(opening=pb.BatchOpening(window=window, max_message_bytes=65536))
        yield from script(seen, requests, context)


def restored(client_id):
    report = pb.Report(id="r", output_format=pb.OUTPUT_FORMAT_PNG)
    return pb.RestoreBatchResponse(result=pb.BatchResult(client_id=client_id, image=b"image", report=report))


def failed(client_id, *, retryable):
    problem = pb.Problem(code="inference_failed", title="Inference failed", detail="nan", retryable=retryable)
    return pb.RestoreBatchResponse(failure=pb.BatchFailure(client_id=client_id, error=problem))


def answers_all(seen, requests, _context):
    for request in requests:
        seen.append(request.photo.client_id)
        yield restored(request.photo.client_id)


def ends_after(count, code):
    """Answers so many photos, reads what is sent beyond, and ends with a status."""

    def script(seen, requests, context):
        for request in requests:
            seen.append(request.photo.client_id)
            if len(seen) <= count:
                yield restored(request.photo.client_id)
            elif len(seen) == count + 3:  # the window is full
                context.abort(code, "scripted")

    return script


@contextlib.contextmanager
def client_of(servicer, retry=AT_ONCE):
    with grpc_server(servicer) as address, GrpcClient(address, retry=retry) as client:
        yield client


def photos(count):
    return [Photo(str(number), b"photo") for number in range(count)]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
def test_after_a_lost_stream_exactly_the_unanswered_are_sent_again(code):
    servicer = Scripted(ends_after(2, code), ends_after(0, code), answers_all)
    with client_of(servicer) as client:
        answers = [answer.client_id for answer in client.restore_batch(photos(9))]
    assert sorted(answers) == [str(number) for number in range(9)]
    assert servicer.seen[0] == ["0", "1", "2", "3", "4"]
    assert servicer.seen[1] == ["2", "3", "4"]
    assert servicer.seen[2] == ["2", "3", "4", "5", "6", "7", "8"]


def test_a_window_that_was_small_once_is_the_caller_s_again_in_the_next_stream():
    def waits_for_three(seen, requests, context):
        for request in requests:
            seen.append(request.photo.client_id)
            if len(seen) == 3:
                break
        yield from map(restored, seen)
        yield from answers_all(seen, requests, context)

    def ends_after_one(seen, requests, context):
        seen.append(next(requests).photo.client_id)
        yield restored(seen[0])
        seen.append(next(requests).photo.client_id)
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")

    servicer = Scripted(ends_after_one, waits_for_three)
    servicer.windows = [1, 8]
    with client_of(servicer) as client:
        assert len(list(client.restore_batch(photos(9), window=6))) == 9
    assert servicer.wanted == [6, 6]


def test_no_stream_is_opened_while_there_is_no_photo():
    goes_on, opened = threading.Event(), []

    def slowly():
        yield photos(1)[0]
        goes_on.wait(30)
        opened.append(len(servicer.seen))
        yield photos(2)[1]

    def ends_when_unused(seen, requests, context):
        yield from answers_all(seen, [next(requests)], context)
        threading.Timer(0.2, goes_on.set).start()
        context.abort(grpc.StatusCode.UNAVAILABLE, "unused")

    servicer = Scripted(ends_when_unused, answers_all)
    with client_of(servicer, Retry(attempts=2, first_s=0.0)) as client:
        assert len(list(client.restore_batch(slowly()))) == 2
    assert (opened, len(servicer.seen)) == ([1], 2)


def test_a_server_that_ends_every_stream_is_given_up():
    gone = ends_after(0, grpc.StatusCode.UNAVAILABLE)
    servicer = Scripted(gone, gone, gone)
    with client_of(servicer) as client, pytest.raises(ServerUnreachable, match="scripted"):
        list(client.restore_batch(photos(5)))
    assert len(servicer.seen) == 3


def test_an_answer_gives_new_patience():
    once = ends_after(1, grpc.StatusCode.UNAVAILABLE)
    servicer = Scripted(*[once] * 5, answers_all)
    with client_of(servicer) as client:
        assert len(list(client.restore_batch(photos(12)))) == 12
    assert len(servicer.seen) == 6


def test_a_stream_that_ends_well_but_early_is_opened_again():
    def ends_at_once(seen, requests, _context):
        yield restored(next(requests).photo.client_id)

    servicer = Scripted(ends_at_once, ends_at_once, answers_all)
    with client_of(servicer) as client:
        assert sorted(answer.client_id for answer in client.restore_batch(photos(4))) == ["0", "1", "2", "3"]


def test_a_photo_that_may_succeed_later_is_sent_again_in_the_same_stream():
    def fails_first(seen, requests, _context):
        for request in requests:
            client_id = request.photo.client_id
            yield failed(client_id, retryable=True) if client_id not in seen else restored(client_id)
            seen.append(client_id)

    servicer = Scripted(fails_first)
    with client_of(servicer) as client:
        answers = list(client.restore_batch(photos(4)))
    assert all(answer.restored for answer in answers)
    assert sorted(servicer.seen[0]) == sorted([str(number) for number in range(4)] * 2)


def test_answers_have_the_caller_s_names_whatever_those_are():
    names = ["n" * 1000, "\udcff.jpg", "plain", ""]
    servicer = Scripted(ends_after(1, grpc.StatusCode.UNAVAILABLE), answers_all)
    with client_of(servicer) as client:
        answers = [answer.client_id for answer in client.restore_batch([Photo(name, b"photo") for name in names])]
    assert sorted(answers) == sorted(names)


def test_a_refusal_of_the_stream_is_final():
    servicer = Scripted(ends_after(0, grpc.StatusCode.PERMISSION_DENIED))
    with client_of(servicer) as client, pytest.raises(RestorationError) as refused:
        list(client.restore_batch(photos(5)))
    assert (refused.value.code, refused.value.retryable) == ("permission_denied", False)


def test_a_photo_above_the_limit_is_answered_here_and_the_others_go_on():
    with client_of(Scripted(answers_all)) as client:
        answers = {answer.client_id: answer for answer in client.restore_batch([Photo("big", b"x" * 1001), *photos(2)])}
    assert answers["big"].error.code == "upload_too_large"
    assert answers["0"].restored.image == b"image"


def test_a_caller_who_takes_no_answers_holds_up_the_source():
    taken = []

    def counted():
        for photo in photos(500):
            taken.append(photo.client_id)
            yield photo

    with client_of(Scripted(answers_all)) as client, contextlib.closing(client.restore_batch(counted())) as answers:
        for _ in range(20):
            next(answers)
        assert len(taken) < 20 + 3 + 6  # answered, the window, and answers on their way


def test_errors_of_the_source_end_the_batch():
    def broken():
        yield photos(1)[0]
        raise ZeroDivisionError

    with client_of(Scripted(answers_all)) as client, pytest.raises(ZeroDivisionError):
        list(client.restore_batch(broken()))


@pytest.mark.parametrize("details", ["none", "ours", "broken", "foreign", "too_large"])
def test_what_a_status_means(details):
    def packed(*messages):
        status = Status(code=8, message="no room")
        for message in messages:
            any_message = Any()
            any_message.Pack(message)
            status.details.append(any_message)
        return status

    class Refusing(Scripted):
        def GetLimits(self, request, context):
            if details == "too_large":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)")
            if details == "none":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
            if details == "broken":
                context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
            wait = RetryInfo()
            wait.retry_delay.FromMilliseconds(1500)
            metadata = {
                "code": "queue_full",
                "title": "The queue is full",
                "retryable": "true",
                "hint": "wait",
                "max": "9",
            }
            domain = "latent-pmrf" if details == "ours" else "example.com"
            info = ErrorInfo(reason="QUEUE_FULL", domain=domain, metadata=metadata)
            context.abort_with_status(rpc_status.to_status(packed(info, wait)))

    with client_of(Refusing(), Retry(attempts=1)) as client, pytest.raises(RestorationError) as refused:
        client.limits()
    error = refused.value
    if details == "ours":
        assert (error.code, error.title, error.hint) == ("queue_full", "The queue is full", "wait")
        assert (error.retryable, error.retry_after_s, error.values) == (True, 1.5, {"max": 9})
    else:
        assert error.code == "resource_exhausted"
        assert (error.detail == "no room") == error.retryable == (details != "too_large")


async def test_tls_and_headers():
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()
    servicer = Scripted()
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc_server(servicer, grpc.ssl_server_credentials([(key, chain)])) as address:
        async with AsyncGrpcClient(address, credentials=trusted, headers={"Authorization": "Bearer t"}) as client:
            assert (await client.limits()).model == "m@1"
        async with AsyncGrpcClient(address, retry=Retry(attempts=1)) as client:
            with pytest.raises(ServerUnreachable):
                await client.limits()
    assert servicer.metadata[0]["authorization"] == "Bearer t"


def test_a_photo_whose_options_cannot_be_sent_fails_alone():
    with grpc_server(Scripted(answers_all)) as address, GrpcClient(address) as client:
        photos = [Photo("a", b"x", {"num_steps": -1}), Photo("b", b"x", {"faces": "some"}), Photo("c", b"x")]
        answers = {answer.client_id: answer for answer in client.restore_batch(photos)}
    assert answers["a"].error.code == answers["b"].error.code == "invalid_option"
    assert answers["c"].restored.image == b"image"


def test_whoever_waits_is_told_when_the_client_is_closed():
    class Slow(Scripted):
        def GetLimits(self, request, context):
            entered.set()
            context.add_callback(released.set)
            released.wait(30)
            return LIMITS

    entered, released, ended = threading.Event(), threading.Event(), []

    def ask(client):
        try:
            client.limits()
        except BaseException as error:  # noqa: BLE001 - any end is one
            ended.append(str(error))

    with grpc_server(Slow()) as address:
        client = GrpcClient(address)
        waiting = threading.Thread(target=ask, args=(client,))
        waiting.start()
        entered.wait(30)
        client.close()
        waiting.join(30)
    assert ended == ["the client is closed"]
