"""The operator chooses who decodes: processes of their own, or the threads of the service."""

import psutil

from service.composition.decoders import decoding
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import Upload
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
