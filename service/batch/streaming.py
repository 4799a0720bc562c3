"""The engine for a running service: photos through RestoreBatch, results to files."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import cast

from service.batch.items import Item, Outcome, unwritable
from service.batch.results import to_the_end
from service.client import AsyncGrpcClient, Options, Photo, Restored
from service.core.suffixes import SUFFIXES
from service.local.results import ends_everything, write_result


class StreamingEngine:
    """Restores photos through a service.

    Args:
        client: Of the service; opens the stream again when it is lost.
        options: The caller's choices; the encoding comes from each target's suffix.
        window: Photos that may be unanswered at once.
    """

    def __init__(self, client: AsyncGrpcClient, options: Options, window: int) -> None:
        self._client = client
        self._options = options
        self._window = window

    async def run(self, items: Iterator[Item]) -> AsyncGenerator[Outcome, None]:
        """See `Engine`."""
        under_way: dict[str, Item] = {}

        def photos() -> Iterator[Photo]:
            for item in items:
                under_way[item.id] = item
                yield Photo(item.id, item.source, self._options_of(item))

        async with contextlib.aclosing(self._client.restore_batch(photos(), window=self._window)) as answers:
            async for answer in answers:
                item = under_way.pop(answer.client_id)
                if answer.restored is not None:
                    outcome, cancelled = await to_the_end(_written, item, answer.restored)
                    yield outcome  # a result that is there is noted, whatever comes
                    if cancelled is not None:
                        raise cancelled
                elif answer.error is not None:
                    yield Outcome(item, error=answer.error.as_document())

    def _options_of(self, item: Item) -> Options:
        encoding = SUFFIXES[item.target.suffix.lower()].value
        return cast(Options, {**self._options, "output_format": encoding})


def _written(item: Item, restored: Restored) -> Outcome:
    """Write a result.

    Raises:
        OSError: No result can be written any more.
    """
    try:
        write_result(item.target, restored.image)
    except OSError as error:
        if ends_everything(error):
            raise
        return Outcome(item, error=unwritable(item.target, error))
    report = None if restored.report is None else restored.report.as_document()
    return Outcome(item, result_bytes=len(restored.image), report=report)
