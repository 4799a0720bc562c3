"""What is said on the channel of a job: news of it, and previews, which are stored nowhere.

show_previews -> PUBLISH -> preview_in | next_news
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from service.brokers.codec import decode, encode
from service.brokers.redis_connection import Argument
from service.brokers.redis_lanes import POLL_S, Lanes
from service.brokers.redis_listener import Ear
from service.core.errors import ServiceError
from service.core.types import FaceKey, FacePreview

_MARK = b"preview "  # as in scripts/show.lua
_MOVED = b"moved"  # said of a lane, not of a job; as in scripts/lanes.lua
_LOOK_PAUSE_S = 0.05  # between two looks of one who watches: a busy lane moves often

logger = logging.getLogger(__name__)


async def show_previews(lanes: Lanes[Any], previews: Sequence[tuple[FaceKey, FacePreview]]) -> None:
    """Show previews, each in the name of an item; those of items that this taker does not have are dropped.

    Raises:
        DependencyUnavailable: The server does not answer.
    """
    arguments: list[Argument] = []
    for key, preview in previews:
        arguments += (*key, encode(preview))
    await lanes.run_as_taker("show", *arguments)


def is_preview(message: bytes) -> bool:
    """Whether a message of a job's channel is a preview, and no news."""
    return message.startswith(_MARK)


def preview_in(message: bytes) -> FacePreview | None:
    """The preview that a message is; None for news, and for one of another version: nothing depends on it."""
    if not is_preview(message):
        return None
    try:
        return decode(FacePreview, message[len(_MARK) :])
    except ServiceError as error:
        logger.warning("a preview is passed over: %s", error.detail)
        return None


async def next_news(ear: Ear, *, is_queued: bool) -> None:
    """Wait, a second at most, until a job may have changed: by news of it, or of its lane while it is queued."""
    await asyncio.sleep(_LOOK_PAUSE_S)
    ends_s = time.monotonic() + POLL_S
    while not ear.closed:
        heard = await ear.wait(max(0.0, ends_s - time.monotonic()))
        news = [message for message in heard if not is_preview(message)]
        if not heard or (is_queued and news) or any(message != _MOVED for message in news):
            return
