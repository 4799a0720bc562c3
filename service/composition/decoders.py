"""Who decodes: processes of their own, or, where the operator wants none, the thread that asks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import DecodedImage, Upload
from service.decoders.calls import can_filter_calls
from service.decoders.pool import DecoderPool
from service.stages.decode import DecodeLimits, decode

logger = logging.getLogger(__name__)

Decode = Callable[[Upload, DecodeLimits], DecodedImage]


@contextlib.contextmanager
def decoding(
    settings: Settings, metrics: Metrics, stand_in: Decode | None = None
) -> Iterator[tuple[Decode, Callable[[], None]]]:
    """Decode for the duration of the block; a stand-in is called in place of all that.

    Returns:
        What decodes a photo, and what waits until it can, raising `DependencyUnavailable` where it never will.
    """
    if settings.decoder_children == 0 or stand_in is not None:
        yield stand_in or decode, lambda: None
        return
    if not can_filter_calls():
        logger.warning("this kernel filters no calls: what decodes photos may make any (docs/SECURITY.md)")
    with DecoderPool(settings.decoder_children, settings.decode_cpu_s, metrics) as pool:
        yield pool.decode, pool.rehearse
