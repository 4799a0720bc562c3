"""What is believed of a decoder's answer: whoever has taken a child over can write any bytes."""

import json
import socket
import time

import numpy as np
import pytest

from service.core.errors import ImageTooLarge, InputError
from service.core.types import DecodedImage, OutputFormat
from service.decoders.wire import (
    ANSWER,
    MAGIC,
    MAX_TEXT_BYTES,
    NOTHING,
    Channel,
    Ended,
    Garbled,
    Head,
    Kind,
    Told,
    TooLate,
    receive_answer,
    send_photo,
    send_refusal,
    send_text,
)
from service.stages.containers.container import MAX_ICC_BYTES
from service.stages.containers.exif import MAX_EXIF_BYTES
from service.stages.containers.png_chunks import MAX_CHUNKS_BYTES
from service.stages.decode import DecodeLimits

LIMITS = DecodeLimits(max_upload_bytes=10**6, max_image_px=6000, min_side_px=32)
PHOTO = Head(MAGIC, Kind.PHOTO, 1, 0, 0, 0, 0, 100, 60, NOTHING, NOTHING, 0, 0)
REFUSAL = {"code": "image_too_large", "detail": "too large", "hint": "shrink it", "extra": {"width_px": 9}}


def answered(data, limits=LIMITS):
    """What comes of a child that writes this and ends."""
    ours, childs = socket.socketpair()
    with ours:
        with childs:
            childs.sendall(data)
        return receive_answer(Channel(ours), limits)


def told(text):
    """What comes of a refusal with this text."""
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return answered(ANSWER.pack(*PHOTO._replace(kind=Kind.REFUSAL, text_bytes=len(data))) + data)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"width_px": 32, "height_px": 187},
        {"sample_bytes": 2, "has_alpha": 1, "is_grey": 1, "is_lossless": 1},
        {"format": len(OutputFormat) - 1},
        {"icc_bytes": MAX_ICC_BYTES},
        {"exif_bytes": MAX_EXIF_BYTES},
        {"png_bytes": MAX_CHUNKS_BYTES},
    ],
    ids=str,
)
def test_a_head_within_its_limits_is_believed_and_its_bytes_are_waited_for(parts):
    with pytest.raises(Ended):
        answered(ANSWER.pack(*PHOTO._replace(**parts)))


@pytest.mark.parametrize(
    "parts",
    [
        {"magic": b"LPD0"},
        {"kind": len(Kind)},
        {"kind": Kind.REFUSAL, "text_bytes": MAX_TEXT_BYTES + 1},
        {"kind": Kind.DEFECT, "text_bytes": MAX_TEXT_BYTES + 1},
        {"width_px": 31},
        {"height_px": 31},
        {"width_px": 0},
        {"height_px": 0},
        {"width_px": 61, "height_px": 99},
        {"width_px": 2**32 - 1, "height_px": 2**32 - 1},
        {"sample_bytes": 0},
        {"sample_bytes": 3},
        {"sample_bytes": 8},
        {"has_alpha": 2},
        {"is_grey": 2},
        {"is_lossless": 2},
        {"format": len(OutputFormat)},
        {"icc_bytes": MAX_ICC_BYTES + 1},
        {"icc_bytes": NOTHING - 1},
        {"exif_bytes": MAX_EXIF_BYTES + 1},
        {"exif_bytes": NOTHING - 1},
        {"png_bytes": MAX_CHUNKS_BYTES + 1},
        {"png_bytes": NOTHING},
    ],
    ids=str,
)
def test_a_head_beyond_its_limits_is_not_believed(parts):
    with pytest.raises(Garbled):
        answered(ANSWER.pack(*PHOTO._replace(**parts)) + bytes(4 * MAX_TEXT_BYTES))


@pytest.mark.parametrize("side", ["width_px", "height_px"])
def test_no_photo_is_without_pixels_whatever_the_least_side(side):
    with pytest.raises(Garbled):
        answered(ANSWER.pack(*PHOTO._replace(**{side: 0})), DecodeLimits(10**6, 6000, 0))


def test_all_parts_of_a_photo_come_back_and_what_follows_is_nothing_of_it():
    photo = DecodedImage(
        pixels=np.arange(40 * 50 * 3, dtype=np.uint16).reshape(40, 50, 3),
        alpha=np.arange(40 * 50, dtype=np.uint16).reshape(40, 50),
        icc_profile=b"profile",
        exif=b"",
        source_format=OutputFormat.WEBP,
        is_grey=True,
        is_lossless=True,
        png_chunks=b"chunks",
    )
    ours, childs = socket.socketpair()
    with ours, childs:
        send_photo(Channel(childs), photo)
        childs.sendall(b"and more")
        image = receive_answer(Channel(ours), LIMITS)
    for name in ("icc_profile", "exif", "source_format", "is_grey", "is_lossless", "png_chunks"):
        assert getattr(image, name) == getattr(photo, name), name
    for mine, theirs in ((image.pixels, photo.pixels), (image.alpha, photo.alpha)):
        np.testing.assert_array_equal(mine, theirs, strict=True)
        assert not mine.flags.writeable


@pytest.mark.parametrize("part", ["icc_bytes", "exif_bytes", "png_bytes"])
def test_a_part_cut_short_is_no_answer(part):
    with pytest.raises(Ended):
        answered(ANSWER.pack(*PHOTO._replace(**{part: 10})) + b"nine byte")


@pytest.mark.parametrize("extra", [{"width_px": 9}, {}])
def test_a_refusal_names_its_error_and_its_limits(extra):
    with pytest.raises(ImageTooLarge) as caught:
        told(REFUSAL | {"extra": extra})
    assert (caught.value.detail, caught.value.hint, caught.value.extra) == ("too large", "shrink it", extra)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * MAX_TEXT_BYTES,
        "image_too_large",
        {},
        *({name: value for name, value in REFUSAL.items() if name != left_out} for left_out in REFUSAL),
        *(REFUSAL | {"code": code} for code in ("defect", "queue_full", "ImageTooLarge", None, [])),
        *(REFUSAL | {name: text} for name in ("detail", "hint") for text in (None, 1, ["text"])),
        *(REFUSAL | {"extra": extra} for extra in (None, 5, "text", ["width_px"])),
        *(REFUSAL | {"extra": {"width_px": value}} for value in ("<script>", 1.5, None, [], {})),
        *(REFUSAL | {"extra": {name: 1}} for name in ("code", "status", "retry_after_s", "detail", "hint", "self")),
    ],
    ids=lambda text: repr(text)[:60],
)
def test_a_refusal_with_anything_else_is_not_believed(text):
    with pytest.raises(Garbled):
        told(text)


def test_what_a_refusal_says_cannot_break_out_of_its_line():
    with pytest.raises(InputError) as caught:
        told(REFUSAL | {"detail": "no\nERROR forged\x1b[2J", "hint": "é\u202etext\r\0"})
    assert (caught.value.detail, caught.value.hint) == ("no?ERROR forged?[2J", "é?text??")


def test_a_long_refusal_is_shortened_and_still_one():
    ours, childs = socket.socketpair()
    with ours, childs:
        send_refusal(Channel(childs), ImageTooLarge("é" * 9000, hint="shrink it", width_px=9))
        with pytest.raises(ImageTooLarge) as caught:
            receive_answer(Channel(ours), LIMITS)
    assert caught.value.detail == "é" * 1000
    assert caught.value.extra == {"width_px": 9}


def test_of_a_long_traceback_the_end_is_told():
    ours, childs = socket.socketpair()
    with ours, childs:
        send_text(Channel(childs), Kind.DEFECT, "x" * 3 * MAX_TEXT_BYTES + "the end")
        with pytest.raises(Told) as caught:
            receive_answer(Channel(ours), LIMITS)
    assert caught.value.kind is Kind.DEFECT
    assert caught.value.text.endswith("xthe end")
    assert len(caught.value.text) == MAX_TEXT_BYTES


def test_a_child_that_drips_is_too_late_though_it_never_stops():
    ours, childs = socket.socketpair()
    with ours, childs:
        childs.sendall(ANSWER.pack(*PHOTO))
        for act in (lambda channel: receive_answer(channel, LIMITS), lambda channel: channel.send(b"photo")):
            with pytest.raises(TooLate):
                act(Channel(ours, ends_s=time.monotonic() - 1))


def test_a_child_that_neither_writes_nor_reads_is_too_late():
    ours, childs = socket.socketpair()
    with ours, childs:
        channel = Channel.until(ours, 0.02)
        with pytest.raises(TooLate):
            channel.take(1)
        with pytest.raises(TooLate):
            Channel.until(ours, 0.02).send(bytes(1 << 24))
