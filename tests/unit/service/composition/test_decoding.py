"""The operator chooses who decodes: processes of their own, or the threads of the service."""

import platform

import psutil
import pytest

from service.composition.decoders import decoding
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import Upload
from service.decoders import calls
from service.decoders.calls import can_filter_calls
from service.stages.decode import DecodeLimits
from tests.pictures import encoded

LIMITS = DecodeLimits(max_upload_bytes=10**6, max_image_px=10**6, min_side_px=32)


def decoded_in(children):
    """How many processes there were beside ours, and how many photos they decoded."""
    metrics, mine = Metrics(), psutil.Process()
    before = len(mine.children(recursive=True))
    with decoding(Settings(decoder_children=children), metrics) as (decode, rehearse):
        rehearse()
        family = len(mine.children(recursive=True)) - before
        assert decode(Upload(encoded()), LIMITS).pixels.shape == (100, 120, 3)
    assert len(mine.children(recursive=True)) == before
    return family, metrics.registry.get_sample_value("restore_decoder_children_total", {"outcome": "decoded"})


def test_without_children_a_thread_decodes():
    assert decoded_in(0) == (0, 0.0)


def test_with_children_they_do():
    family, photos = decoded_in(1)
    assert family >= 2
    assert photos == 1.0


@pytest.mark.parametrize(("machine", "is_told"), [(platform.machine(), False), ("mips", True)])
def test_that_calls_are_not_filtered_is_told(machine, is_told, monkeypatch, caplog):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with decoding(Settings(decoder_children=1), Metrics()):
        pass
    assert ("filters no calls" in caplog.text) == is_told


def test_a_kernel_without_filters_is_told_from_one_with(monkeypatch):
    """Where prctl knows no filters it is said to be an invalid argument, wherever that is."""
    assert can_filter_calls()
    monkeypatch.setattr(calls, "_SECCOMP_MODE_FILTER", 77)
    assert not can_filter_calls()
