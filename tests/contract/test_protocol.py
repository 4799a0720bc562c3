"""The gRPC interface keeps buf's STANDARD rules, and has HTTP's names.

One rule is left out: PACKAGE_DIRECTORY_MATCH wants the file in `restoration/v1/`; it stands beside its server instead.
"""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from service.api.job_schemas import JobSchema, ProgressSchema
from service.api.schemas import FaceSchema, LimitsSchema, ProblemSchema, RestorationSchema
from service.core.jobs import JobState
from service.core.options import OptionFields
from service.core.types import Background, FaceSelection, FaceStatus, OutputFormat
from service.rpc import restoration_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "service" / "rpc" / "restoration.proto").read_text()
FILE = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)

SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")
UPPER_SNAKE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def all_messages(messages=FILE.message_type):
    for message in messages:
        if not message.options.map_entry:
            yield message
            yield from all_messages(message.nested_type)


def all_enums():
    return [*FILE.enum_type, *(enum for message in all_messages() for enum in message.enum_type)]


def upper_snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def test_file_and_package():
    assert FILE.syntax == "proto3"
    assert FILE.package == "restoration.v1"
    assert SNAKE.fullmatch(Path(FILE.name).stem)
    assert not FILE.public_dependency
    assert not FILE.weak_dependency


def test_every_import_is_used():
    types = {field.type_name for message in all_messages() for field in message.field}
    for imported in FILE.dependency:
        name = {"duration": ".google.protobuf.Duration", "timestamp": ".google.protobuf.Timestamp"}[Path(imported).stem]
        assert name in types


def test_services_and_their_messages():
    (service,) = FILE.service
    assert PASCAL.fullmatch(service.name)
    assert service.name.endswith("Service")
    used = []
    for method in service.method:
        assert PASCAL.fullmatch(method.name)
        assert method.input_type == f".restoration.v1.{method.name}Request"
        assert method.output_type == f".restoration.v1.{method.name}Response"
        used += [method.input_type, method.output_type]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("message", list(all_messages()), ids=lambda message: message.name)
def test_message_names(message):
    assert PASCAL.fullmatch(message.name)
    assert [field.name for field in message.field if not SNAKE.fullmatch(field.name)] == []
    # A name with a leading underscore is the compiler's, for `optional`.
    oneofs = [oneof.name for oneof in message.oneof_decl if not oneof.name.startswith("_")]
    assert [name for name in oneofs if not SNAKE.fullmatch(name)] == []


@pytest.mark.parametrize("enum", all_enums(), ids=lambda enum: enum.name)
def test_enum_names(enum):
    prefix = upper_snake(enum.name)
    assert PASCAL.fullmatch(enum.name)
    assert not enum.options.allow_alias
    assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
    for value in enum.value:
        assert UPPER_SNAKE.fullmatch(value.name)
        assert value.name.startswith(f"{prefix}_")


def test_everything_has_a_comment():
    """Beyond STANDARD: the file is the interface's only reference."""
    lines = [line.strip() for line in SOURCE.splitlines()]
    declares = re.compile(r"(message|enum|service|rpc|oneof) \w|(optional |repeated )?[\w.<>, ]+ \w+ = \d+;$")
    bare = [line for above, line in itertools.pairwise(lines) if declares.match(line) and above[:2] != "//"]
    assert [line for line in bare if not line.startswith(("syntax", "package"))] == []


def test_options_are_http_s():
    assert [field.name for field in pb.RestoreOptions.DESCRIPTOR.fields] == list(OptionFields.model_fields)


@pytest.mark.parametrize(
    ("enum", "words"),
    [
        (pb.FaceSelection, FaceSelection),
        (pb.Background, Background),
        (pb.OutputFormat, OutputFormat),
        (pb.FaceStatus, FaceStatus),
        (pb.JobStatus, JobState),
    ],
    ids=lambda each: each.DESCRIPTOR.name if hasattr(each, "DESCRIPTOR") else "",
)
def test_words_are_http_s(enum, words):
    prefix = upper_snake(enum.DESCRIPTOR.name)
    assert enum.keys() == [f"{prefix}_UNSPECIFIED", *(f"{prefix}_{word.value.upper()}" for word in words)]


@pytest.mark.parametrize(
    ("message", "schema", "left_out"),
    [
        (pb.Face, FaceSchema, set()),
        (pb.Report, RestorationSchema, {"status", "urls"}),
        (pb.Progress, ProgressSchema, set()),
        (pb.Job, JobSchema, {"urls"}),
        (pb.Problem, ProblemSchema, {"type", "instance"}),
        (pb.GetLimitsResponse, LimitsSchema, {"options"}),
    ],
    ids=lambda each: each.DESCRIPTOR.name if hasattr(each, "DESCRIPTOR") else "",
)
def test_fields_are_http_s(message, schema, left_out):
    fields = {field.name for field in message.DESCRIPTOR.fields}
    assert set(schema.model_fields) - left_out <= fields


def test_the_generator_is_no_newer_than_the_libraries():
    """Generated code refuses a runtime older than its generator; pip takes the build's requirements from elsewhere."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    generator = next(line.partition("==")[2] for line in build if line.startswith("grpcio-tools=="))
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for library in ("grpcio", "grpcio-status", "grpcio-health-checking", "grpcio-reflection"):
        assert f"{library}=={generator}" in pins
