"""A photo in a process of its own: the same pixels, and whatever the process does, the service goes on."""

import contextlib
import errno
import logging
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from service.core.errors import (
    AnimatedImage,
    CorruptImage,
    DependencyUnavailable,
    EmptyUpload,
    ImageTooLarge,
    ServiceError,
    UnsupportedFormat,
    UploadTooLarge,
)
from service.core.metrics import Metrics
from service.core.types import Upload
from service.decoders.nursery import Nursery
from service.decoders.pool import DecoderPool
from service.stages.decode import DecodeLimits, decode
from service.stages.samples import writable
from tests import odd_decoder as odd
from tests.pictures import animated, encoded, pixels, png_bomb, saved
from tests.processes import until

LIMITS = DecodeLimits(max_upload_bytes=10**6, max_image_px=400_000, min_side_px=32)
CPU_S = 1.0
ODD = "tests.odd_decoder"
HONEST = encoded(pixels(120, 100))


class Pool(DecoderPool):
    """A pool with its figures."""

    def __init__(self, children=2, template=ODD, **times):
        self.metrics = Metrics()
        super().__init__(children, CPU_S, self.metrics, template=template, **times)

    def counted(self, outcome):
        return self.metrics.registry.get_sample_value("restore_decoder_children_total", {"outcome": outcome})

    def processes(self):
        return psutil.Process(self.template_pid).children()


@pytest.fixture(scope="module")
def pool():
    with Pool() as running:
        yield running


def provoke(pool, width, error=CorruptImage):
    with pytest.raises(error) as caught:
        pool.decode(Upload(encoded(pixels(width, 100))), LIMITS)
    assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)
    return caught.value


def photos():
    photo = Image.fromarray(pixels(90, 70))
    clear = photo.copy()
    clear.putalpha(photo.getchannel(0))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    deep = np.random.default_rng(0).integers(0, 65536, (70, 90), dtype=np.uint16)
    profile = b"\0\0\0\xc8" + bytes(12) + b"RGB " + bytes(16) + b"acsp" + bytes(160)
    return {
        "jpeg": saved(photo, "JPEG"),
        "jpeg turned": saved(photo, "JPEG", exif=exif, icc_profile=profile),
        "grey": saved(photo.convert("L"), "JPEG"),
        "cmyk": saved(photo.convert("CMYK"), "JPEG"),
        "png with alpha": saved(clear, "PNG", exif=exif),
        "png with density": saved(clear, "PNG", dpi=(300, 300)),
        "png with 16 bits": saved(Image.fromarray(deep), "PNG"),
        "palette": saved(photo.quantize(16), "PNG", transparency=3),
        "webp": saved(photo, "WEBP", exif=exif.tobytes()),
        "webp with alpha": saved(clear, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", photos())
def test_a_child_decodes_as_a_thread_does(pool, kind):
    upload = Upload(photos()[kind])
    image, expected = pool.decode(upload, LIMITS), decode(upload, LIMITS)
    for name in ("icc_profile", "exif", "source_format", "is_grey", "png_chunks", "is_lossless"):
        assert getattr(image, name) == getattr(expected, name), name
    for mine, theirs in ((image.pixels, expected.pixels), (image.alpha, expected.alpha)):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            assert not mine.flags.writeable
            np.testing.assert_array_equal(mine, theirs)
    assert writable(image.pixels).flags.writeable


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyUpload),
        (bytes(10**6 + 1), UploadTooLarge),
        (b"hello", UnsupportedFormat),
        (animated("WEBP"), AnimatedImage),
        (png_bomb(), ImageTooLarge),
        (HONEST[:-20], CorruptImage),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value.code,
)
def test_a_child_refuses_as_a_thread_does(pool, data, error):
    with pytest.raises(error) as told:
        pool.decode(Upload(data), LIMITS)
    with pytest.raises(error) as expected:
        decode(Upload(data), LIMITS)
    for name in ("detail", "hint", "extra"):
        assert getattr(told.value, name) == getattr(expected.value, name)


@pytest.mark.parametrize(
    ("act", "outcome", "children", "words"),
    [
        (odd.CRASH, "crashed", 2, "SIGSEGV"),
        (odd.ABORT, "crashed", 2, "SIGABRT"),
        (odd.LEAVE, "crashed", 2, "exit status 0"),
        (odd.STUTTER, "crashed", 2, "exit status 0"),
        (odd.SIGNAL, "crashed", 2, "signal 40"),
        (odd.SPIN, "out_of_time", 1, "1 s of computing"),
        (odd.SWALLOW, "out_of_memory", 1, "memory"),
        (odd.BABBLE, "garbled", 1, "no answer"),
        (odd.LIE, "garbled", 1, "2147483648"),
        (odd.BOAST, "garbled", 1, "too long"),
    ],
)
def test_a_photo_that_takes_its_decoder_along_is_refused_and_the_next_is_decoded(pool, act, outcome, children, words):
    before = pool.counted(outcome)
    error = provoke(pool, act)
    assert words in error.detail
    assert "save it anew" in error.hint
    assert pool.counted(outcome) - before == children


def test_a_decoder_that_somebody_kills_over_its_photo_is_no_fault_of_the_photo(pool):
    """The kernel does so when memory has run out; what the service ends for its time is the photo's."""
    before = pool.counted("killed"), pool.counted("crashed")
    error = provoke(pool, odd.DIE, DependencyUnavailable)
    assert "memory" in error.detail
    assert error.extra == {"decoders_killed": 2}
    assert (pool.counted("killed") - before[0], pool.counted("crashed") - before[1]) == (2, 0)


def test_a_bug_of_ours_is_told_to_the_operator_and_not_to_the_caller(pool, caplog):
    with caplog.at_level(logging.ERROR):
        error = provoke(pool, odd.FAIL, ServiceError)
    assert type(error) is ServiceError
    assert "a bug of ours" not in error.detail
    assert "RuntimeError: a bug of ours" in caplog.text


def test_a_decoder_that_does_nothing_is_ended_by_the_clock():
    with Pool(patience_s=2) as pool:
        pool.rehearse()
        with pytest.raises(CorruptImage, match="longer than 2 s"):
            pool.decode(Upload(encoded(pixels(odd.HANG, 100))), LIMITS)
        assert pool.counted("out_of_time") == 1


def test_a_decoder_can_open_nothing_and_knows_no_secrets(monkeypatch):
    monkeypatch.setenv("LATENT_PMRF_REDIS_URL", "redis://:secret@host")
    monkeypatch.setenv("SECRET", "secret")
    with Pool() as pool:
        assert "exit status 44" in provoke(pool, odd.ESCAPE).detail


def told_of(process, file):
    """What the kernel says of a process; columns are apart by two spaces or a colon."""
    lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    return {name: words for name, *words in (re.split(r":?\s{2,}|:\t", line.strip()) for line in lines)}


def test_a_decoder_that_waits_has_given_up_all_rights(pool):
    pool.rehearse()
    until(lambda: len(pool.processes()) == 2)
    child = pool.processes()[0]
    until(lambda: told_of(child, "status")["Seccomp"] == ["2"])  # it comes last
    assert told_of(child, "status")["NoNewPrivs"] == ["1"]
    limits = told_of(child, "limits")
    for name in ("core file size", "file size", "processes", "open files"):
        assert limits[f"Max {name}"][:2] == ["0", "0"], name
    assert limits["Max cpu time"][:2] == ["1", "2"]
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"


def test_a_photo_has_memory_for_its_own_pixels_and_not_for_those_of_the_largest(pool):
    large = DecodeLimits(max_upload_bytes=10**6, max_image_px=10**8, min_side_px=32)
    before = pool.counted("out_of_memory")
    with pytest.raises(CorruptImage, match="more memory than a photo of its size"):
        pool.decode(Upload(encoded(pixels(odd.HOARD, 100))), large)
    assert pool.counted("out_of_memory") - before == 1


def test_a_process_decodes_one_photo():
    with Pool(children=1) as pool:
        pool.rehearse()
        until(lambda: len(pool.processes()) == 1)
        (first,) = pool.processes()
        pool.decode(Upload(HONEST), LIMITS)
        until(lambda: not first.is_running())
        until(lambda: len(pool.processes()) == 1)


def test_more_photos_than_children_take_turns(pool):
    hostile = [encoded(pixels(width, 100)) for width in (odd.CRASH, odd.SWALLOW, odd.BABBLE)]
    files = [encoded(pixels(120, 100, seed)) for seed in range(24)]
    with ThreadPoolExecutor(8) as threads:
        troubles = [threads.submit(pool.decode, Upload(data), LIMITS) for data in hostile * 2]
        images = list(threads.map(lambda data: pool.decode(Upload(data), LIMITS), files))
    for image, seed in zip(images, range(24), strict=True):
        np.testing.assert_array_equal(image.pixels, pixels(120, 100, seed))
    assert all(isinstance(trouble.exception(), CorruptImage) for trouble in troubles)
    until(lambda: len(pool.processes()) == 2)


def test_a_decoder_that_somebody_ends_costs_no_photo(pool):
    until(lambda: len(pool.processes()) == 2)
    ended = pool.processes()
    for child in ended:
        child.kill()
    until(lambda: not any(child.is_running() for child in ended))
    for _ in range(2):
        assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)


def test_a_template_that_somebody_ends_is_started_again_and_its_children_are_gone():
    with Pool() as pool:
        pool.rehearse()
        until(lambda: len(pool.processes()) == 2)
        template, children = pool.template_pid, pool.processes()
        os.kill(template, signal.SIGKILL)
        for _ in range(3):
            assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)
        assert pool.template_pid != template
        until(lambda: not any(child.is_running() for child in children))


def test_signals_for_the_whole_group_leave_the_decoders_at_work(pool):
    pool.rehearse()
    until(lambda: len(pool.processes()) == 2)
    template = psutil.Process(pool.template_pid)
    assert os.getsid(template.pid) != os.getsid(0)
    for process in (template, *template.children()):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)
    assert pool.template_pid == template.pid


def no_descriptors_left(monkeypatch, spared=0):
    """Let the next pairs of sockets fail, but for the first few."""
    left, pair = [spared], socket.socketpair

    def failing(*arguments):
        if left[0] > 0:
            left[0] -= 1
            return pair(*arguments)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", failing)


@pytest.mark.parametrize("spared", [0, 1])
def test_a_moment_without_descriptors_costs_no_place(monkeypatch, spared):
    with Pool(children=1) as pool:
        pool.rehearse()
        before = descriptors()
        with monkeypatch.context() as moment:
            no_descriptors_left(moment, spared)
            assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)
        with monkeypatch.context() as moment:
            no_descriptors_left(moment, spared)
            with pytest.raises(DependencyUnavailable, match="no decoder can be started"):
                pool.decode(Upload(HONEST), LIMITS)
        for _ in range(2):
            assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)
        until(lambda: len(descriptors()) == len(before))


def test_whatever_goes_wrong_with_the_next_child_costs_no_place(monkeypatch):
    def fail(_nursery):
        raise MemoryError

    with Pool(children=1) as pool:
        pool.rehearse()
        with monkeypatch.context() as moment:
            moment.setattr(Nursery, "bear", fail)
            for _ in range(2):  # after its photo, and for want of a child
                with pytest.raises(MemoryError):
                    pool.decode(Upload(HONEST), LIMITS)
        assert pool.decode(Upload(HONEST), LIMITS).pixels.shape == (100, 120, 3)


def descriptors():
    """What this process has open, by number."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            found.add((link.name, os.readlink(link)))
    return found


def test_closing_leaves_no_process_and_no_descriptor():
    before = descriptors()
    with Pool() as pool:
        pool.decode(Upload(HONEST), LIMITS)
        with pytest.raises(CorruptImage):
            pool.decode(Upload(encoded(pixels(odd.CRASH, 100))), LIMITS)
        family = [psutil.Process(pool.template_pid), *pool.processes()]
    assert descriptors() - before == set()
    until(lambda: not any(process.is_running() for process in family))


def test_a_template_that_cannot_start_is_said_so():
    with Pool(template="service.there_is_no_such_module") as pool:
        with pytest.raises(DependencyUnavailable, match="decoder_children 0"):
            pool.rehearse()
        with pytest.raises(DependencyUnavailable, match="no decoder can be started"):
            pool.decode(Upload(HONEST), LIMITS)
