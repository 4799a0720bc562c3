"""EXIF blocks: what is read, what is kept, what never leaves."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.stages.containers import exif

ASCII, SHORT, LONG, RATIONAL, BYTES = 2, 3, 4, 5, 7
MAKE, ORIENTATION, CAMERA, GPS, INTEROP, EXPOSURE = 0x010F, 0x0112, 0x8769, 0x8825, 0xA005, 0x829A
SECRET = b"a place nobody is to know"


def block(order, entries, *, after=b"", next_directory=0, offset=8):
    """A TIFF stream of one directory; an entry is (tag, type, count, four bytes or an int)."""
    packed = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (value if isinstance(value, bytes) else struct.pack(f"{order}I", value))
        for tag, kind, count, value in entries
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(entries)) + packed + struct.pack(f"{order}I", next_directory)
    return magic + struct.pack(f"{order}I", offset) + directory + after


def read(data):
    image_exif = Image.Exif()
    image_exif.load(data)
    return image_exif


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_in_both_byte_orders(order, value):
    assert exif.orientation(block(order, [(ORIENTATION, SHORT, 1, struct.pack(f"{order}HH", value, 0))])) == value


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"XX*\0\x08\0\0\0\0\0",
        block("<", [(ORIENTATION, ASCII, 2, b"6\0\0\0")]),
        block("<", [(ORIENTATION, SHORT, 0, 6)]),
        block("<", [(ORIENTATION, 77, 1, 6)]),
        block("<", []),
    ],
)
def test_what_says_nothing_turns_nothing_and_is_not_kept(data):
    assert exif.orientation(data) == 1
    assert exif.sanitise(data) is None


@pytest.mark.parametrize("order", "<>")
def test_camera_data_is_kept_in_its_byte_order(order):
    at = 8 + 2 + 3 * 12 + 4
    tail = b"A maker's name\0\0" + struct.pack(f"{order}H", 1)
    tail += struct.pack(f"{order}HHII", EXPOSURE, RATIONAL, 1, at + 16 + 18) + struct.pack(f"{order}III", 0, 1, 100)
    data = block(
        order,
        [(MAKE, ASCII, 15, at), (ORIENTATION, SHORT, 1, struct.pack(f"{order}HH", 6, 0)), (CAMERA, LONG, 1, at + 16)],
        after=tail,
    )
    kept = exif.sanitise(data)
    assert kept[:4] == data[:4]
    assert read(kept)[MAKE] == "A maker's name"
    assert read(kept).get_ifd(CAMERA)[EXPOSURE] == pytest.approx(0.01)
    assert ORIENTATION not in read(kept)
    assert exif.sanitise(kept) == kept


def test_interoperability_is_kept_and_linked():
    given = Image.Exif()
    given[MAKE] = "x"
    given.get_ifd(CAMERA)[EXPOSURE] = 0.5
    given.get_ifd(CAMERA)[INTEROP] = {1: "R98"}
    kept = read(exif.sanitise(given.tobytes()[6:]))
    assert kept.get_ifd(CAMERA)[EXPOSURE] == pytest.approx(0.5)
    assert kept.get_ifd(INTEROP)[1] == "R98"


@pytest.mark.parametrize(
    "tag",
    [
        0x010E,
        0x02BC,
        0x83BB,
        0x8649,
        0x9286,
        0x927C,
        *range(0x9C9B, 0x9CA0),
        0xA430,
        0xA431,
        0xA435,
        0xC4A5,
        0xC62F,
        0x8773,
        0x014A,
        0x0111,
        0x0117,
        0x0201,
        0x0202,
        0x0100,
        0x0101,
        0x0103,
        0xA002,
        0xA003,
        GPS,
    ],
    ids=lambda tag: f"{tag:#06x}",
)
def test_what_must_not_leave(tag):
    at = 8 + 2 + 2 * 12 + 4
    data = block("<", [(MAKE, ASCII, 2, b"x\0\0\0"), (tag, BYTES, len(SECRET), at)], after=SECRET)
    kept = exif.sanitise(data)
    assert read(kept)[MAKE] == "x"
    assert SECRET not in kept
    assert tag not in read(kept)


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        (0x0110, "model"),
        (0x0131, "software"),
        (0x0132, "a date"),
        (0x013B, "artist"),
        (0x8298, "copyright"),
        (0x9003, "date of the photo"),
        (0x9010, "time zone"),
        (0xA434, "a lens"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["the picture's", "the camera's"])
def test_what_stays(tag, name, where):
    at = 8 + 2 + 12 + 4
    if where == "the picture's":
        data = block("<", [(tag, ASCII, len(name), at)], after=name.encode())
        kept = read(exif.sanitise(data))
    else:
        camera = struct.pack("<HHHII", 1, tag, ASCII, len(name), at + 18) + bytes(4) + name.encode()
        kept = read(exif.sanitise(block("<", [(CAMERA, LONG, 1, at)], after=camera))).get_ifd(CAMERA)
    assert kept[tag] == name


def test_a_directory_may_be_linked_by_a_type_of_its_own():
    at = 8 + 2 + 12 + 4
    tail = struct.pack("<HHHIIII", 1, EXPOSURE, RATIONAL, 1, at + 18, 0, 1) + struct.pack("<I", 100)
    kept = read(exif.sanitise(block("<", [(CAMERA, 13, 1, at)], after=tail)))
    assert kept.get_ifd(CAMERA)[EXPOSURE] == pytest.approx(0.01)


@pytest.mark.parametrize(("turned", "expected"), [(False, (300, 150)), (True, (150, 300))])
def test_a_turned_picture_has_its_densities_turned(turned, expected):
    given = Image.Exif()
    given[0x011A], given[0x011B] = 300, 150
    given.get_ifd(CAMERA)[0xA20E], given.get_ifd(CAMERA)[0xA20F] = 300, 150
    kept = read(exif.sanitise(given.tobytes()[6:], turned=turned))
    assert (kept[0x011A], kept[0x011B]) == expected
    assert (kept.get_ifd(CAMERA)[0xA20E], kept.get_ifd(CAMERA)[0xA20F]) == expected


@pytest.mark.parametrize("converted", [False, True])
def test_of_how_samples_were_stored_nothing_is_told_and_of_their_colours_what_is_true(converted):
    given = Image.Exif()
    given[MAKE], given[0x0102], given[0x0106], given[0x0115] = "x", (8, 8, 8, 8), 5, 4
    given.get_ifd(CAMERA).update({0xA001: 0xFFFF, EXPOSURE: 0.5})
    kept = read(exif.sanitise(given.tobytes()[6:], converted=converted))
    assert set(kept) == {MAKE, CAMERA}
    assert (0xA001 in kept.get_ifd(CAMERA)) is not converted


def test_position_and_thumbnail_bytes_are_gone():
    given = Image.Exif()
    given[MAKE] = "x"
    given.get_ifd(GPS).update({1: "N", 0x1D: "2026:11:24"})
    first = given.tobytes()[6:]
    thumbnail = block("<", [(MAKE, ASCII, 2, b"x\0\0\0")], next_directory=26, after=SECRET)
    for data, secret in ((first, b"2026:11:24"), (thumbnail, SECRET)):
        assert secret in data
        assert secret not in exif.sanitise(data)


def test_entries_that_lie_are_left_out_one_by_one():
    entries = [
        (MAKE, ASCII, 2, b"x\0\0\0"),
        (0x0110, ASCII, 1000, 8),
        (0x0131, ASCII, 2**31, 8),
        (0x0132, ASCII, 9, 2**31),
    ]
    assert set(read(exif.sanitise(block("<", entries)))) == {MAKE}


def test_directories_that_point_at_each_other_end():
    loop = block("<", [(MAKE, ASCII, 2, b"x\0\0\0"), (CAMERA, LONG, 1, 8)], next_directory=8)
    assert len(exif.sanitise(loop)) < 200


def test_many_entries_over_the_same_bytes_do_not_unpack_to_much():
    entries = [(tag, BYTES, 60_000, 8) for tag in range(0x9000, 0x9000 + 5000)]
    kept = exif.sanitise(block("<", entries, after=bytes(60_000)))
    assert len(kept) <= exif.MAX_EXIF_BYTES
    assert len(read(kept)) == 1


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_many_small_values_fill_a_block_and_no_more(size):
    entries = [(tag, BYTES, size, 8) for tag in range(0xD000, 0xD000 + 5500)]
    kept = exif.sanitise(block("<", entries, after=bytes(8)))
    each = 12 if size <= 4 else 12 + size + size % 2
    assert exif.MAX_EXIF_BYTES - each - 60 < len(kept) <= exif.MAX_EXIF_BYTES
    assert exif.sanitise(kept) == kept


@pytest.mark.parametrize("size", [64_900, 66_000, 300_000])
def test_of_a_block_too_large_the_largest_values_are_dropped_and_the_orientation_holds(size):
    at = 8 + 2 + 4 * 12 + 4
    entries = [
        (ORIENTATION, SHORT, 1, 6),
        (MAKE, ASCII, 2, b"x\0\0\0"),
        (0x8298, ASCII, 400, at),
        (0x935C, BYTES, size, at),
    ]
    data = block("<", entries, after=b"c" * size)
    assert exif.orientation(data) == 6
    kept = exif.sanitise(data)
    assert set(read(kept)) == {MAKE, 0x8298}
    assert read(kept)[0x8298] == "c" * 400
    assert exif.sanitise(kept) == kept


def test_the_largest_value_may_be_the_cameras():
    at = 8 + 2 + 2 * 12 + 4
    camera = struct.pack("<HHHIIHHII", 2, EXPOSURE, RATIONAL, 1, 8, 0x9286, BYTES, 66_000, 8)
    data = block("<", [(MAKE, ASCII, 2, b"x\0\0\0"), (CAMERA, LONG, 1, at)], after=camera + bytes(66_000))
    kept = read(exif.sanitise(data))
    assert kept[MAKE] == "x"
    assert set(kept.get_ifd(CAMERA)) == {EXPOSURE}


def test_a_directory_cut_short_still_turns_the_photo_and_is_not_kept():
    data = block("<", [(ORIENTATION, SHORT, 1, 6), (MAKE, ASCII, 2, b"x\0\0\0")])
    lying = data[:8] + struct.pack("<H", 9) + data[10:]
    assert exif.orientation(lying) == 6
    assert exif.sanitise(lying) is None


@given(st.binary(max_size=200), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_nonsense_is_survived(data, magic):
    assert 1 <= exif.orientation(magic + data) <= 8
    kept = exif.sanitise(magic + data)
    assert kept is None or exif.sanitise(kept) is not None
