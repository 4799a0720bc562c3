"""A client that knows nothing of our code: it asks the server what it speaks, as grpcurl does."""

import base64

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import service_process

SERVICE = "restoration.v1.RestorationService"


class StockClient:
    """Calls by name, with messages as JSON has them."""

    def __init__(self, channel):
        self._channel = channel
        self._known = ProtoReflectionDescriptorDatabase(channel)
        self._service = DescriptorPool(self._known).FindServiceByName(SERVICE)

    def services(self):
        return set(self._known.get_services())

    def call(self, name, *requests):
        method = self._service.methods_by_name[name]
        kinds = ["stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)]
        invoke = getattr(self._channel, "_".join(kinds))(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        messages = [ParseDict(request, GetMessageClass(method.input_type)()) for request in requests]
        answer = invoke(iter(messages) if method.client_streaming else messages[0], timeout=60)
        return [*map(as_json, answer)] if method.server_streaming else as_json(answer)


def as_json(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def image(number):
    return base64.b64encode(numbered(number)).decode()


def check(answer, number):
    data = base64.b64decode(answer)
    assert number_of(data) == number
    assert is_restored(data)


@pytest.fixture(scope="module")
def client(arithmetic_bundle, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "service.log"
    with (
        service_process(arithmetic_bundle, log, grpc_port=-1, inference_threads=1) as running,
        grpc.insecure_channel(running.rpc_address) as channel,
    ):
        yield StockClient(channel)


def test_it_finds_the_services(client):
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= client.services()


def test_it_restores_a_photo(client):
    answer = client.call("Restore", {"image": image(7), "options": {"aligned": True, "seed": "3"}})
    check(answer["image"], 7)
    assert answer["report"]["seed"] == "3"


def test_it_restores_a_stream(client):
    photos = [{"photo": {"client_id": str(number), "image": image(number)}} for number in range(5)]
    opening, *answers = client.call("RestoreBatch", {"setup": {"options": {"aligned": True}}}, *photos)
    assert opening["opening"]["window"] > 0
    assert {answer["result"]["client_id"] for answer in answers} == set("01234")
    for answer in answers:
        check(answer["result"]["image"], int(answer["result"]["client_id"]))


def test_it_runs_a_job(client):
    job = client.call("Submit", {"image": image(9), "options": {"aligned": True}})["job"]
    assert client.call("Watch", {"id": job["id"]})[-1]["job"]["status"] == "JOB_STATUS_SUCCEEDED"
    (part,) = client.call("GetResult", {"id": job["id"]})
    check(part["data"], 9)


def test_it_is_told_what_is_wrong(client):
    with pytest.raises(grpc.RpcError) as caught:
        client.call("Get", {"id": "unknown"})
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "no such restoration"
