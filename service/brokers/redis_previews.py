"""Previews between processes: said on the channel of their job's news, and stored nowhere.

show_previews -> PUBLISH -> preview_in
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from service.brokers.codec import decode, encode
from service.brokers.redis_connection import Argument
from service.brokers.redis_lanes import Lanes
from service.core.errors import ServiceError
from service.core.types import FaceKey, FacePreview

_MARK = b"preview "  # as in scripts/show.lua

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
