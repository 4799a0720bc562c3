"""How a process tells what it does: logs in one form, traces where they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from service.composition.release import version
from service.core.settings import Settings
from service.telemetry.logs import sayer, write_logs
from service.telemetry.traces import exporting


@contextlib.contextmanager
def telling(name: str, settings: Settings, say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Logs and traces for the duration of the block, and how to tell the operator something.

    Args:
        name: What the process is: `serve`, `gateway` or `worker`.
        settings: The operator's.
        say: Writes a line for people.

    Raises:
        UnusableSettings: The environment asks for traces in a way that cannot be.
    """
    write_logs(settings.log_format)
    with exporting(f"latent-pmrf-{name}", version()):
        yield sayer(settings.log_format, say)
