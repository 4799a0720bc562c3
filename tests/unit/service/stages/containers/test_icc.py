"""What a profile says of grey pixels, read without a C library."""

import struct

import numpy as np
import pytest

from service.stages.containers.icc import grey_light, profile_for

UNIT = np.linspace(0, 1, 256)
SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(*tags, connection=b"XYZ "):
    """A profile of grey pixels with these tags: name and bytes."""
    table, values = struct.pack(">I", len(tags)), b""
    for name, value in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(values), len(value))
        values += value
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(values), b"", 0x04300000, b"mntr", b"GRAY", connection)
    return (head + bytes(12) + b"acsp").ljust(128, b"\0") + table + values


def table(*values):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


def function(number, *parameters):
    fixed = (round(value * 65_536) for value in parameters)
    return b"para\0\0\0\0" + struct.pack(f">HH{len(parameters)}i", number, 0, *fixed)


@pytest.mark.parametrize(
    ("curve", "light"),
    [
        (table(), UNIT),
        (table(round(1.8 * 256)), UNIT**1.8),
        (table(0, 65_535), UNIT),
        (table(*np.rint(65_535 * np.linspace(0, 1, 512) ** 1.7).astype(int)), UNIT**1.7),
        (function(0, 2.2), UNIT**2.2),
        (function(1, 2.0, 2.0, -1.0), np.maximum(2 * UNIT - 1, 0) ** 2),
        (function(2, 2.0, 1.25, -0.5, 0.25), np.maximum(1.25 * UNIT - 0.5, 0) ** 2 + 0.25),
        (function(3, *SRGB), np.where(UNIT < 0.04045, UNIT / 12.92, ((UNIT + 0.055) / 1.055) ** 2.4)),
        (function(4, 2.0, 1.0, 0.0, 0.5, 0.5, -0.1, 0.2), np.where(UNIT < 0.5, UNIT / 2 + 0.2, UNIT**2 - 0.1)),
    ],
)
def test_curves(curve, light):
    np.testing.assert_allclose(grey_light(profile((b"kTRC", curve))), light, atol=0.005)


def test_a_curve_may_be_one_of_lightness():
    light = grey_light(profile((b"kTRC", table()), connection=b"Lab "))
    np.testing.assert_allclose(light[[0, 128, 255]], [0, 0.18583, 1], atol=1e-4)


@pytest.mark.parametrize(
    "curve",
    [
        b"",
        b"curv",
        b"curv" + bytes(4) + b"\xff\xff\xff\xff",
        table(1, 2, 3)[:-1],
        function(0, 2.2)[:-1],
        function(5, *SRGB),
        b"mft2" + bytes(100),
    ],
)
def test_what_is_no_curve(curve):
    assert grey_light(profile((b"kTRC", curve))) is None


def test_without_a_curve():
    hostile = profile((b"A2B0", table()))
    assert profile_for(hostile, "GRAY") == hostile
    assert grey_light(hostile) is None
    assert grey_light(hostile[:128] + b"\xff" * 40) is None


@pytest.mark.parametrize(
    "curve", [function(1, 2.0, 0.0, 0.5), function(3, -5.0, -9.0, 0.5, 0.0, 0.0), function(0, 30_000), table(0)]
)
def test_numbers_beyond_all_reason_give_light_all_the_same(curve):
    light = grey_light(profile((b"kTRC", curve)))
    assert light.shape == (256,)
    assert light.min() >= 0
    assert light.max() <= 1
