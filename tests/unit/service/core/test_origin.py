"""Which request ids a caller may choose."""

import pytest

from service.core.origin import request_id_of


@pytest.mark.parametrize(
    "given", ["a", "7f3c", "2f1b5c1e-8a5e-4a3c-9f55-1d0b3c3c2f11", "Root=1-67/a:b+c.d_e", "x" * 128]
)
def test_a_sane_one_is_kept(given):
    assert request_id_of(given) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        " ",
        "a b",
        "a\nb",
        "a\r\nlevel: error",
        "a\x00",
        "\x1b[31m",
        "ü",
        "a" * 129,
        "-a",
        '{"a":1}',
        "a\u2028b",
        "a\n",
    ],
)
def test_any_other_is_replaced_by_a_new_one(given):
    first, second = request_id_of(given), request_id_of(given)
    assert first != second
    assert len(first) == 32
    assert request_id_of(first) == first
