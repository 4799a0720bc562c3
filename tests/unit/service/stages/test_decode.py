"""What photos of every honest kind become."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.core.types import OutputFormat, Upload
from service.stages.decode import DecodeLimits, decode
from tests.pictures import decoded, encoded, pixels, png_file, png_header, saved

LIMITS = DecodeLimits(max_upload_bytes=10**7, max_image_px=10**6, min_side_px=8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB = Image.fromarray(pixels())
GREY = RGB.convert("L")
FADE = np.broadcast_to(np.linspace(0, 255, 120).astype(np.uint8), (100, 120))
ORIENTATION, MAKE, GPS, EXPOSURE_TIME = 0x0112, 0x010F, 0x8825, 0x829A


def opened(data):
    return decode(Upload(data), LIMITS)


def with_alpha(image):
    image = image.copy()
    image.putalpha(Image.fromarray(FADE))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_those_of_the_file(kind):
    data = encoded(kind=kind)
    image = opened(data)
    np.testing.assert_array_equal(image.pixels, decoded(data))
    assert image.pixels.dtype == np.uint8
    assert image.source_format is OutputFormat(kind.lower())
    assert (image.alpha, image.icc_profile, image.exif, image.is_grey) == (None, None, None, False)


def test_arrays_cannot_be_written_to():
    image = opened(saved(with_alpha(RGB), "PNG"))
    for array in (image.pixels, image.alpha):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("parameters", [{"progressive": True}, {"subsampling": 2, "restart_marker_rows": 1}])
def test_kinds_of_jpeg(parameters):
    data = encoded(kind="JPEG", **parameters)
    np.testing.assert_array_equal(opened(data).pixels, decoded(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = opened(encoded(kind=kind, exif=exif))
    upright = decoded(encoded(kind=kind))
    # What each value tells: where the stored rows and columns go (EXIF 2.32, 4.6.4 A).
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[:, ::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[::-1],
    }
    np.testing.assert_array_equal(image.pixels, turned[orientation])
    assert image.exif is None


def test_alpha_turns_with_the_photo():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = opened(saved(with_alpha(RGB), "PNG", exif=exif))
    assert image.alpha.shape == image.pixels.shape[:2] == (120, 100)
    np.testing.assert_array_equal(image.alpha, FADE.T[:, ::-1])


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_an_orientation_that_does_not_exist_means_none(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert opened(encoded(kind="JPEG", exif=exif)).pixels.shape == (100, 120, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_profile_and_camera_are_kept_position_and_orientation_are_not(kind):
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Maker", 3
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(0x8769)[EXPOSURE_TIME] = 0.01
    image = opened(encoded(kind=kind, exif=exif, icc_profile=SRGB))
    assert image.icc_profile == SRGB
    kept = Image.Exif()
    kept.load(image.exif)
    assert kept[MAKE] == "Maker"
    assert kept.get_ifd(0x8769)[EXPOSURE_TIME] == pytest.approx(0.01)
    assert ORIENTATION not in kept
    assert GPS not in kept


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (saved(with_alpha(RGB), "PNG"), False),
        (saved(with_alpha(RGB), "WEBP", lossless=True, exact=True), False),
        (saved(with_alpha(GREY), "PNG"), True),
    ],
    ids=["RGBA", "WebP", "LA"],
)
def test_alpha_channel(data, grey):
    image = opened(data)
    np.testing.assert_array_equal(image.alpha, FADE)
    np.testing.assert_array_equal(image.pixels, np.asarray((GREY if grey else RGB).convert("RGB")))
    assert image.is_grey is grey


def test_a_palette_and_its_transparent_entries():
    palette = RGB.quantize(16)
    plain = opened(saved(palette, "PNG"))
    np.testing.assert_array_equal(plain.pixels, np.asarray(palette.convert("RGB")))
    assert plain.alpha is None
    assert not plain.is_grey
    clear = opened(saved(palette, "PNG", transparency=bytes([0, 128])))
    indices = np.asarray(palette)
    np.testing.assert_array_equal(clear.alpha, np.where(indices == 0, 0, np.where(indices == 1, 128, 255)))


@pytest.mark.parametrize("bit_depth", [1, 2, 4, 8])
def test_grey_of_few_bits_spreads_over_the_range_and_one_value_may_be_transparent(bit_depth):
    samples = np.arange(64).reshape(8, 8) % 2**bit_depth
    bits = (samples[:, :, None] >> np.arange(bit_depth)[::-1] & 1).reshape(8, -1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = png_header(8, 8, bit_depth, colour=0)
    image = opened(png_file(header, (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    np.testing.assert_array_equal(image.pixels[:, :, 0], samples * (255 // (2**bit_depth - 1)))
    np.testing.assert_array_equal(image.alpha == 0, samples == 1)
    assert image.is_grey


def test_one_colour_may_be_transparent():
    colour = tuple(int(value) for value in pixels()[20, 30])
    image = opened(saved(RGB, "PNG", transparency=colour))
    np.testing.assert_array_equal(image.alpha == 0, (pixels() == colour).all(axis=2))
    assert image.alpha[20, 30] == 0


@pytest.mark.parametrize("data", [saved(GREY, "JPEG"), saved(GREY, "PNG"), saved(RGB.convert("1"), "PNG")])
def test_grey_is_replicated_and_remembered(data):
    image = opened(data)
    assert image.is_grey
    np.testing.assert_array_equal(image.pixels, decoded(data, "RGB"))


def deep(channels):
    """(H, W, channels) of 16 bits whose low bytes count."""
    return np.random.default_rng(channels).integers(0, 2**16, (20, 30, channels), dtype=np.uint16)


def png16(samples, *extra):
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = png_header(samples.shape[1], samples.shape[0], 16, colour)
    return png_file(header, *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(channels):
    samples = deep(channels)
    image = opened(png16(samples))
    assert image.pixels.dtype == np.uint16
    assert image.is_grey is (channels < 3)
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(samples[:, :, : 3 if channels > 2 else 1], (20, 30, 3)))
    if channels in (2, 4):
        np.testing.assert_array_equal(image.alpha, samples[:, :, -1])
    else:
        assert image.alpha is None


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_with_a_transparent_colour(channels):
    samples = deep(channels)
    image = opened(png16(samples, (b"tRNS", samples[3, 4].astype(">u2").tobytes())))
    np.testing.assert_array_equal(image.alpha == 0, (samples == samples[3, 4]).all(axis=2))
    assert image.alpha.max() == 65535


LINEAR = (b"gAMA", struct.pack(">I", 100_000))
P3_PRIMARIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
P3 = (b"cICP", bytes((12, 13, 0, 1)))
DENSITY = (b"pHYs", struct.pack(">IIB", 11811, 5906, 1))


def stating(*chunks, after=()):
    rows = zlib.compress(bytes(16 * 49))
    return png_file(png_header(16, 16), *chunks, (b"IDAT", rows), *after, (b"IEND", b""))


def test_what_a_png_states_of_its_colours_is_kept():
    stated = (P3, (b"sRGB", b"\0"), LINEAR, P3_PRIMARIES, DENSITY)
    assert opened(stating(*stated[::-1])).png_chunks == b"".join(kind + body for kind, body in stated)


def test_a_profile_is_above_all_but_cicp():
    profile = (b"iCCP", b"p\0\0" + zlib.compress(SRGB))
    assert opened(stating(P3, profile, LINEAR, P3_PRIMARIES)).png_chunks == b"".join(P3)
    grey_by_error = (b"iCCP", b"p\0\0" + zlib.compress(SRGB.replace(b"RGB XYZ", b"GRAYXYZ")))
    assert opened(stating(grey_by_error, LINEAR)).png_chunks == b"".join(LINEAR)


def test_of_several_profiles_in_a_png_the_first_is_read_and_no_other():
    """Each of 4 KiB may unpack to 4 MiB, which took a file of 32 MiB a minute and more."""
    profile, broken = (b"iCCP", b"p\0\0" + zlib.compress(SRGB)), (b"iCCP", b"p\0\0")
    assert opened(stating(profile, broken)).icc_profile == SRGB
    assert opened(stating(broken, profile)).icc_profile is None


def test_chunks_of_another_length_or_after_the_pixels_are_left_out():
    assert opened(stating((b"gAMA", bytes(5)), (b"cHRM", bytes(31)), after=[LINEAR])).png_chunks == b""


def test_the_density_turns_with_the_photo():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = (b"pHYs", struct.pack(">IIB", 5906, 11811, 1))
    assert opened(stating(DENSITY, (b"eXIf", exif.tobytes()[6:]))).png_chunks == b"".join(turned)


def test_cmyk_becomes_srgb():
    data = saved(RGB.convert("CMYK"), "JPEG", quality=95, icc_profile=SRGB)  # a profile that does not fit the pixels
    image = opened(data)
    assert np.abs(image.pixels.astype(int) - pixels()).max() < 16
    assert image.icc_profile is None
    assert not image.is_grey


def test_adobe_cmyk_is_inverted():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, :, 0] = 255  # cyan
    adobe = saved(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in adobe
    assert opened(adobe).pixels.reshape(-1, 3).mean(axis=0) == pytest.approx([0, 255, 255], abs=3)


def test_exif_that_cannot_be_read_is_dropped_and_the_photo_is_not():
    for exif in (b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        image = opened(encoded(kind="JPEG", exif=exif))
        assert image.exif is None
        assert image.pixels.shape == (100, 120, 3)


def test_of_several_pictures_in_one_jpeg_the_first_is_taken():
    first, second = Image.fromarray(pixels(seed=1)), Image.fromarray(pixels(seed=2))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(opened(data).pixels, decoded(saved(first, "JPEG")))


def test_a_film_after_the_picture_is_left_alone():
    film = np.random.default_rng(0).bytes(8_000_000)
    assert film.count(b"\xff\xda") > 100
    still = encoded(kind="JPEG")
    np.testing.assert_array_equal(opened(still + film).pixels, decoded(still))


def test_an_animation_of_one_frame_is_a_photo():
    np.testing.assert_array_equal(opened(encoded(kind="PNG", save_all=True)).pixels, pixels())


@pytest.mark.parametrize("body", [b"JFIF", b"JFIF\0", b"Adobe", b"Adobe\0"])
def test_a_segment_of_colours_that_is_cut_short_is_nobodys(body):
    whole = encoded(kind="JPEG")
    marker = b"\xff\xe0" if body.startswith(b"JFIF") else b"\xff\xee"
    short = marker + (2 + len(body)).to_bytes(2, "big") + body
    begin = 2 if body.startswith(b"Adobe") else 4 + int.from_bytes(whole[4:6], "big")
    data = whole[:2] + short + whole[begin:]
    np.testing.assert_array_equal(decode(Upload(data), LIMITS).pixels, decode(Upload(whole), LIMITS).pixels)
