"""Where previews wait for one who looks at them: the newest of each face, and no more."""

from __future__ import annotations

import asyncio

from service.core.types import FacePreview


class PreviewBox:
    """For one reader, within one event loop."""

    def __init__(self) -> None:
        self._newest: dict[int, FacePreview] = {}
        self._filled = asyncio.Event()

    def put(self, preview: FacePreview) -> None:
        """Leave a preview; an older one of the same face is dropped."""
        self._newest[preview.face_index] = preview
        self._filled.set()

    async def take(self) -> list[FacePreview]:
        """What has come since the last call; waits for it."""
        await self._filled.wait()
        self._filled.clear()
        taken = list(self._newest.values())
        self._newest.clear()
        return taken
