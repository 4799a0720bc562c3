"""Of what is logged again and again while something lasts, one record in a while."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable


class Sparing(logging.Filter):
    """Passes a record of a kind on, and says in it that the next ones are left out.

    Args:
        quiet_s: For how long they are.
        is_of_kind: Which records are meant; others pass.
    """

    def __init__(self, quiet_s: float, is_of_kind: Callable[[logging.LogRecord], bool] = lambda _record: True) -> None:
        super().__init__()
        self._quiet_s = quiet_s
        self._is_of_kind = is_of_kind
        self._quiet_until_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if not self._is_of_kind(record):
            return True
        now_s = time.monotonic()
        if now_s < self._quiet_until_s:
            return False
        self._quiet_until_s = now_s + self._quiet_s
        record.msg = f"{record.msg}; what follows of this kind is not told for {self._quiet_s:g} s"
        return True
