from dataclasses import fields, replace

import pytest

from service.api.idempotency import parse_key
from service.core.errors import MalformedRequest
from service.core.types import Background, FaceSelection, OutputFormat, RestoreOptions, Upload
from service.submission import fingerprint


@pytest.mark.parametrize(
    ("headers", "key"),
    [([], None), (["abc"], "abc"), (['"abc"'], "abc"), ([' "a b" '], "a b"), (["x" * 255], "x" * 255), (['"'], '"')],
)
def test_keys(headers, key):
    assert parse_key(headers) == key


@pytest.mark.parametrize("headers", [[""], ['""'], ["  "], ["x" * 256], ["a\tb"], ["clé"], ["a", "a"]])
def test_malformed_keys(headers):
    with pytest.raises(MalformedRequest):
        parse_key(headers)


OTHERS = {
    "fidelity": 0.5,
    "num_steps": 3,
    "seed": 1,
    "faces": FaceSelection.ANY,
    "max_faces": 2,
    "det_threshold": 0.6,
    "min_face_px": 30,
    "aligned": True,
    "upscale": 2.0,
    "background": Background.NONE,
    "output_format": OutputFormat.WEBP,
    "quality": 50,
}


def test_the_same_request_has_the_same_fingerprint_and_every_other_another():
    plain = RestoreOptions()
    assert set(OTHERS) == {field.name for field in fields(RestoreOptions)}
    assert fingerprint(Upload(b"a"), plain, None) == fingerprint(Upload(b"a"), RestoreOptions(), None)
    variants = [
        fingerprint(Upload(b"a"), plain, None),
        fingerprint(Upload(b"b"), plain, None),
        fingerprint(Upload(b"a"), plain, "https://example.org"),
        *(fingerprint(Upload(b"a"), replace(plain, **{name: value}), None) for name, value in OTHERS.items()),
    ]
    assert len(set(variants)) == len(variants)
