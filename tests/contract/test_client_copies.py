"""What the client repeats of the service, because it may not import it, is the same."""

import dataclasses
import typing

import pytest

from service.api.schemas import FaceSchema, LimitsSchema, RestorationSchema
from service.client.errors import RestorationError
from service.client.messages import options_message
from service.client.options import Options
from service.client.photo_files import read_photo
from service.client.results import Face, Limits, Report
from service.core.errors import UploadTooLarge
from service.core.options import OptionFields, option_schemas
from service.core.types import Background, FaceSelection, OutputFormat
from service.rpc import restoration_pb2 as pb


def names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def test_options_have_the_names_and_words_of_the_interface():
    hints = typing.get_type_hints(Options)
    assert set(hints) == set(OptionFields.model_fields)
    for name, words in (("faces", FaceSelection), ("background", Background), ("output_format", OutputFormat)):
        assert set(typing.get_args(hints[name])) == {word.value for word in words}
    kinds = {"number": float, "integer": int, "boolean": bool}
    plain = {name: schema for name, schema in option_schemas().items() if "enum" not in schema}
    assert {name: hints[name] for name in plain} == {name: kinds[schema["type"]] for name, schema in plain.items()}


def test_every_option_and_word_travels_by_grpc():
    for name, words in (("faces", FaceSelection), ("background", Background), ("output_format", OutputFormat)):
        numbers = {getattr(options_message({name: word.value}), name) for word in words}
        assert len(numbers - {0}) == len(words)
    assert {field.name for field in pb.RestoreOptions.DESCRIPTOR.fields} == set(OptionFields.model_fields)


def test_reports_have_the_members_of_the_interface():
    assert names(Face) == set(FaceSchema.model_fields)
    assert names(Report) == set(RestorationSchema.model_fields) - {"status", "expires_at", "urls"}


def test_limits_have_the_members_of_the_interface():
    from_options = {"max_num_steps", "default_num_steps", "default_fidelity"}
    assert names(Limits) - from_options == set(LimitsSchema.model_fields) - {"options"}


async def test_the_client_s_own_refusal_has_the_service_s_words():
    with pytest.raises(RestorationError) as refused:
        await read_photo(b"12", 1)
    assert (refused.value.code, refused.value.title) == (UploadTooLarge.code, UploadTooLarge.title)
    assert refused.value.retryable is UploadTooLarge.retryable
