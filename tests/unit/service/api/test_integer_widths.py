"""Integers above 32 bits say so, for clients that are generated from the document."""

from service.api.openapi import restored_headers
from service.api.schemas import RestorationSchema
from service.core.options import option_schemas


def test_a_seed_has_64_bits():
    in_report = RestorationSchema.model_json_schema()["properties"]["seed"]
    in_header = restored_headers()["X-Restoration-Seed"]["schema"]
    assert {schema["format"] for schema in (in_report, in_header, option_schemas()["seed"])} == {"int64"}
