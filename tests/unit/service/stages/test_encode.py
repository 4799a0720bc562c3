"""Encode, and the round trip of decode and encode."""

import dataclasses
import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.core.errors import InvalidOption
from service.core.types import DecodedImage, OutputFormat, Upload
from service.stages.containers.png_chunks import pack
from service.stages.decode import DecodeLimits, decode
from service.stages.encode import encode
from tests.pictures import decoded, encoded, pixels

JPEG, PNG, WEBP = OutputFormat
LIMITS = DecodeLimits(max_upload_bytes=10**8, max_image_px=10**7, min_side_px=1)
SRGB_PROFILE = ImageCms.createProfile("sRGB")
SRGB = ImageCms.ImageCmsProfile(SRGB_PROFILE).tobytes()
CAMERA = Image.Exif()
CAMERA[0x010F] = "Maker"
EXIF = CAMERA.tobytes()[6:]


def grey_profile(gamma):
    """The least profile of grey pixels: white point and tone curve."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    table = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", 156, 20) + b"kTRC" + struct.pack(">II", 176, 16)
    header = struct.pack(">I4sI4s4s4s", 192, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    return header.ljust(128, b"\0") + table + white + curve


def photo(*, dtype=np.uint8, alpha=False, grey=False, profile=None, exif=None):
    values = pixels().astype(dtype) * (257 if dtype == np.uint16 else 1)
    if dtype == np.uint16:
        values += np.arange(120, dtype=np.uint16)[:, None]
    if grey:
        values = np.repeat(values[:, :, :1], 3, axis=2)
    fade = np.tile(np.linspace(0, np.iinfo(dtype).max, 120).astype(dtype), (100, 1))
    return DecodedImage(values, fade if alpha else None, profile, exif, PNG, grey)


def again(image, output_format, quality=95):
    return decode(Upload(encode(image, output_format, quality)), LIMITS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_png_keeps_everything(dtype, grey, alpha):
    profile = grey_profile(2.2) if grey else SRGB
    image = photo(dtype=dtype, alpha=alpha, grey=grey, profile=profile, exif=EXIF)
    back = again(image, PNG)
    np.testing.assert_array_equal(back.pixels, image.pixels)
    np.testing.assert_array_equal(back.alpha, image.alpha)
    assert back.pixels.dtype == dtype
    assert (back.icc_profile, back.exif, back.is_grey) == (profile, EXIF, grey)


@pytest.mark.parametrize("output_format", [JPEG, WEBP])
def test_jpeg_and_webp_keep_profile_and_exif(output_format):
    back = again(photo(profile=SRGB, exif=EXIF), output_format)
    assert (back.icc_profile, back.exif) == (SRGB, EXIF)
    assert np.abs(back.pixels.astype(int) - pixels()).max() <= 10


@pytest.mark.parametrize("output_format", OutputFormat)
def test_what_comes_in_goes_out_without_position(output_format):
    given = Image.Exif()
    given[0x010F], given[0x0112] = "Maker", 6
    given.get_ifd(0x8825)[1] = "N"
    kind = output_format.value.upper()
    out = encode(decode(Upload(encoded(kind=kind, exif=given, icc_profile=SRGB)), LIMITS), output_format, 95)
    with Image.open(io.BytesIO(out)) as image:
        kept = image.getexif()
        assert dict(kept) == {0x010F: "Maker"}
        assert not kept.get_ifd(0x8825)
        assert image.info["icc_profile"] == SRGB
        assert image.size == (100, 120)


@pytest.mark.parametrize("output_format", [JPEG, WEBP])
def test_16_bits_are_rounded(output_format):
    out = encode(photo(dtype=np.uint16), output_format, 95)
    assert np.abs(decoded(out).astype(int) - pixels()).max() <= 10


def test_webp_keeps_alpha_and_the_colours_beneath():
    image = photo(alpha=True)
    back = again(image, WEBP)
    np.testing.assert_array_equal(back.alpha, image.alpha)
    assert np.abs(back.pixels.astype(int) - image.pixels).max() <= 12


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_lays_alpha_over_white(dtype, grey):
    image = photo(dtype=dtype, alpha=True, grey=grey)
    out = decoded(encode(image, JPEG, 95), "RGB").astype(int)
    assert out[:, 0].min() >= 250
    assert np.abs(out[:, -1] - photo(grey=grey).pixels[:, -1]).max() <= 6
    half = (photo(grey=grey).pixels[:, 60].astype(int) + 255) // 2
    assert np.abs(out[:, 60] - half).max() <= 8


@pytest.mark.parametrize("grey", [False, True])
def test_laying_alpha_over_white_takes_hardly_more_memory_than_its_result(grey):
    side = 1500
    picture = np.full((side, side, 3), 90, np.uint8)
    image = dataclasses.replace(photo(grey=grey), pixels=picture, alpha=np.full((side, side), 90, np.uint8))
    tracemalloc.start()
    encode(image, JPEG, 95)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * picture.nbytes


def test_grey_stays_grey():
    for output_format in (JPEG, PNG):
        back = again(photo(grey=True, profile=grey_profile(1.8)), output_format)
        assert back.is_grey
        assert back.icc_profile == grey_profile(1.8)
    webp = decoded(encode(photo(grey=True), WEBP, 95), "RGB").astype(int)
    assert np.ptp(webp, axis=2).max() <= 4


def test_a_grey_profile_webp_cannot_hold_is_applied():
    image = photo(grey=True, profile=grey_profile(1.0))
    back = again(image, WEBP)
    assert back.icc_profile is None
    linear = image.pixels / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(back.pixels - 255 * srgb).max() < 8


def test_a_profile_that_keeps_littlecms_busy_is_not_its_to_read():
    """LittleCMS takes the pipeline in place of the curve; one of 10,000 such steps, all the same bytes, takes 25 s."""
    with_pipeline = bytearray(grey_profile(1.0).replace(b"wtpt", b"D2B0"))
    curve = struct.pack(">4s4xHHf", b"curf", 2, 0, 0.5) + 2 * struct.pack(">4s4xHH4f", b"parf", 0, 0, 1, 1, 0, 0)
    steps = struct.pack(">4s4xHHII", b"cvst", 1, 1, 20, len(curve)) + curve
    to_black = struct.pack(">4s4xHH6f", b"matf", 1, 3, *[0] * 6)
    pipeline = struct.pack(">4s4xHHI", b"mpet", 1, 3, 3)
    pipeline += 2 * struct.pack(">II", 40, len(steps)) + struct.pack(">II", 40 + len(steps), len(to_black))
    pipeline += steps + to_black
    with_pipeline[136:144] = struct.pack(">II", len(with_pipeline), len(pipeline))
    with_pipeline += pipeline
    with_pipeline[:4] = struct.pack(">I", len(with_pipeline))
    with_pipeline[8] = 4  # version 4
    by_curve = encode(photo(grey=True, profile=grey_profile(1.0)), WEBP)
    assert encode(photo(grey=True, profile=bytes(with_pipeline)), WEBP) == by_curve


def srgb(light):
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def shown(data):
    """What a viewer shows of a file on a display of sRGB, 0 to 1."""
    with Image.open(io.BytesIO(data)) as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        mode = "RGB" if image.mode == "RGB" else "L"
        return np.asarray(ImageCms.profileToProfile(image.convert(mode), profile, SRGB_PROFILE, outputMode="RGB")) / 255


GAMMA_18 = pack({b"gAMA": struct.pack(">I", 55_556)})
P3_CHUNKS = {b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)}
P3_IN_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("output_format", [JPEG, WEBP])
def test_a_gamma_that_a_png_states_holds_in_other_formats(output_format, grey):
    image = photo(grey=grey)
    out = encode(dataclasses.replace(image, png_chunks=GAMMA_18), output_format, 100)
    seen = decoded(out) / 255 if grey and output_format is WEBP else shown(out)  # WebP has no grey profiles
    assert np.abs(seen - srgb((image.pixels / 255) ** 1.8)).max() < 0.04


@pytest.mark.parametrize(("code", "gamma"), [(1, 2.4), (4, 2.2), (8, 1.0), (14, 2.4)])
def test_curves_that_cicp_states_hold_in_jpeg(code, gamma):
    image = dataclasses.replace(photo(), png_chunks=pack({b"cICP": bytes((1, code, 0, 1))}))
    assert np.abs(shown(encode(image, JPEG, 100)) - srgb((image.pixels / 255) ** gamma)).max() < 0.04


@pytest.mark.parametrize("chunks", [P3_CHUNKS, {b"cICP": bytes((12, 13, 0, 1))}])
@pytest.mark.parametrize("output_format", [JPEG, WEBP])
def test_primaries_that_a_png_states_hold_in_other_formats(output_format, chunks):
    values = 128 + (photo().pixels.astype(int) - 128) // 4  # within sRGB
    image = dataclasses.replace(photo(), pixels=values.astype(np.uint8), png_chunks=pack(chunks))
    encoded = values / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    assert np.abs(shown(encode(image, output_format, 100)) - srgb(light @ P3_IN_SRGB.T)).max() < 0.04


@pytest.mark.parametrize("output_format", [JPEG, WEBP])
def test_cicp_is_above_a_profile(output_format):
    image = dataclasses.replace(photo(profile=SRGB), png_chunks=pack({b"cICP": bytes((12, 13, 0, 1))}))
    assert again(image, output_format).icc_profile != SRGB


@pytest.mark.parametrize(
    "chunks",
    [
        {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 100_000)},
        {b"gAMA": struct.pack(">I", 45_455)},
        {b"gAMA": bytes(4)},
        {b"cHRM": bytes(32), b"gAMA": struct.pack(">I", 50_000)},
        {b"cHRM": b"\xff" * 32},
        {b"cHRM": struct.pack(">8I", *[30_000] * 8)},
        {b"cICP": bytes((9, 16, 0, 1))},
        {b"cICP": bytes((9, 18, 0, 1))},
        {b"cICP": bytes((1, 13, 1, 1))},
        {b"cICP": bytes((1, 13, 0, 0))},
    ],
)
def test_colours_that_need_no_profile_or_have_none(chunks):
    image = dataclasses.replace(photo(profile=None), png_chunks=pack(chunks))
    assert [again(image, output_format).icc_profile for output_format in OutputFormat] == [None] * 3
    assert again(image, PNG).png_chunks == image.png_chunks


@pytest.mark.parametrize("dpi", [72, 300])
def test_density_without_exif(dpi):
    for kind in ("JPEG", "PNG"):
        image = decode(Upload(encoded(kind=kind, dpi=(dpi, 2 * dpi))), LIMITS)
        for output_format in (JPEG, PNG):
            with Image.open(io.BytesIO(encode(image, output_format, 95))) as out:
                assert out.info["dpi"] == pytest.approx((dpi, 2 * dpi), abs=0.02)


def test_density_that_is_only_a_ratio_or_none():
    ratio, none, huge = (
        dataclasses.replace(photo(), png_chunks=pack({b"pHYs": struct.pack(">IIB", *density)}))
        for density in ((2, 3, 0), (0, 0, 1), (2**32 - 1, 1, 1))
    )
    assert again(ratio, JPEG).png_chunks == ratio.png_chunks
    assert again(none, JPEG).png_chunks == again(huge, JPEG).png_chunks == b""
    assert decoded(encode(huge, JPEG, 95)).shape == (100, 120, 3)
    per_cm = bytearray(encoded(kind="JPEG"))
    per_cm[13:18] = struct.pack(">BHH", 2, 118, 118)
    assert decode(Upload(bytes(per_cm)), LIMITS).png_chunks == pack({b"pHYs": struct.pack(">IIB", 11_800, 11_800, 1)})


def test_quality_counts():
    sizes = {
        output_format: [len(encode(photo(), output_format, quality)) for quality in (10, 50, 100)]
        for output_format in (JPEG, WEBP)
    }
    for kind in sizes.values():
        assert kind == sorted(set(kind))
    assert len(encode(photo(), PNG, 1)) == len(encode(photo(), PNG, 100))


def test_colour_planes_are_full_from_quality_90():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    image = dataclasses.replace(photo(), pixels=stripes)
    error = {
        quality: np.abs(decoded(encode(image, JPEG, quality)).astype(int) - stripes).mean() for quality in (89, 90)
    }
    assert error[90] < error[89] / 3


@pytest.mark.parametrize(("output_format", "side_px"), [(JPEG, 65_501), (WEBP, 16_384)])
def test_a_side_the_format_cannot_hold(output_format, side_px):
    long = dataclasses.replace(photo(), pixels=np.zeros((2, side_px, 3), np.uint8))
    with pytest.raises(InvalidOption, match=output_format.value) as caught:
        encode(long, output_format, 95)
    assert caught.value.extra["option"] == "output_format"
    assert again(long, PNG).pixels.shape == (2, side_px, 3)
    assert again(dataclasses.replace(long, pixels=long.pixels[:, 1:]), output_format).pixels.shape == (
        2,
        side_px - 1,
        3,
    )


def test_nothing_is_written_to():
    image = photo(alpha=True, grey=True, profile=grey_profile(2.2), exif=EXIF)
    for array in (image.pixels, image.alpha):
        array.setflags(write=False)
    for output_format in OutputFormat:
        encode(image, output_format, 80)
