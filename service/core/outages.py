"""What a loop says of something that does not answer: once when that begins, once when it is over."""

from __future__ import annotations

import logging

from service.core.errors import DependencyUnavailable


class OutageLog:
    """Tells the log of outages, each once, however often it is met; and again where what is wrong has changed.

    Args:
        logger: Whose log.
        what: What may not answer, such as "the queue of photos".
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._told = ""

    def away(self, error: DependencyUnavailable) -> None:
        """It does not answer. The cause, which names the address, is for the log alone: callers get the detail."""
        if error.detail == self._told:
            return
        self._told = error.detail
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        self._logger.warning("%s does not answer: %s%s; this is not repeated", self._what, error.detail, cause)

    def back(self) -> None:
        """It answers."""
        if self._told:
            self._told = ""
            self._logger.warning("%s answers again", self._what)
