import dataclasses

import pytest

from service.core.errors import InvalidOption
from service.core.options import OptionFields, OptionLimits, check_options, in_flags, option_schemas, parse_options
from service.core.types import Background, FaceSelection, OutputFormat, RestoreOptions

LIMITS = OptionLimits(max_num_steps=50, max_faces=64)


def test_fields_mirror_the_pipelines_options():
    fields = {field.name: field.default for field in dataclasses.fields(RestoreOptions)}
    assert {name: field.default for name, field in OptionFields.model_fields.items()} == fields
    assert set(option_schemas()) == set(fields)


def test_nothing_given_is_the_defaults():
    assert parse_options({}, LIMITS) == RestoreOptions()


def test_every_option_as_text():
    given = {
        "fidelity": "0.25",
        "num_steps": "5",
        "seed": str(2**63 - 1),
        "faces": "largest",
        "max_faces": "3",
        "det_threshold": "0.9",
        "min_face_px": "40",
        "aligned": "true",
        "upscale": "2",
        "background": "none",
        "output_format": "webp",
        "quality": "80",
    }
    assert parse_options(given, LIMITS) == RestoreOptions(
        0.25, 5, 2**63 - 1, FaceSelection.LARGEST, 3, 0.9, 40, True, 2.0, Background.NONE, OutputFormat.WEBP, 80
    )


def test_an_empty_text_is_not_given():
    assert parse_options({"seed": "", "fidelity": ""}, LIMITS) == RestoreOptions()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fidelity", "1.01"),
        ("fidelity", "-0.1"),
        ("fidelity", "nan"),
        ("fidelity", "half"),
        ("num_steps", "0"),
        ("num_steps", "51"),
        ("num_steps", "2.5"),
        ("seed", "-1"),
        ("seed", str(2**63)),
        ("faces", "some"),
        ("max_faces", "0"),
        ("max_faces", "65"),
        ("det_threshold", "inf"),
        ("min_face_px", "0"),
        ("aligned", "perhaps"),
        ("upscale", "0.9"),
        ("upscale", "4.1"),
        ("background", "blur"),
        ("output_format", "gif"),
        ("quality", "101"),
    ],
)
def test_a_wrong_value_names_the_option_and_what_is_allowed(name, text):
    with pytest.raises(InvalidOption, match=name) as caught:
        parse_options({name: text}, LIMITS)
    assert caught.value.extra["option"] == name
    assert caught.value.extra["given"] == text
    assert caught.value.extra["allowed"]
    assert name in caught.value.hint


def test_bounds_of_the_bundle_are_told():
    with pytest.raises(InvalidOption) as caught:
        parse_options({"num_steps": "51"}, LIMITS)
    assert caught.value.extra["allowed"]["maximum"] == 50


def test_an_unknown_option_gets_a_suggestion():
    with pytest.raises(InvalidOption, match="fidelty") as caught:
        parse_options({"fidelty": "1"}, LIMITS)
    assert "fidelity" in caught.value.hint


def test_a_long_value_is_not_echoed_whole():
    with pytest.raises(InvalidOption) as caught:
        parse_options({"seed": "9" * 1000}, LIMITS)
    assert len(caught.value.detail) < 300


def test_options_built_directly_are_checked_too():
    with pytest.raises(InvalidOption, match="fidelity"):
        check_options(RestoreOptions(fidelity=7.0), LIMITS)
    with pytest.raises(InvalidOption, match="num_steps"):
        check_options(RestoreOptions(num_steps=51), LIMITS)
    check_options(RestoreOptions(num_steps=50, max_faces=64), LIMITS)


@pytest.mark.parametrize(
    ("hint", "in_words"),
    [
        ("lower det_threshold or min_face_px", "lower --det-threshold or --min-face-px"),
        ("or send faces=any to allow", "or send --faces any to allow"),
        ("set max_faces to restore the largest ones", "set --max-faces to restore the largest ones"),
        ("or leave `aligned` out so that faces are detected", "or leave `--aligned` out so that faces are detected"),
        ("choose a smaller upscale", "choose a smaller upscale"),
    ],
)
def test_a_hint_names_flags_on_the_command_line(hint, in_words):
    assert in_flags(hint) == in_words
