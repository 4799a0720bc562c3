"""Ray for as long as it is needed: the cluster of RAY_ADDRESS, or one of this machine's processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

import ray

from service.client import ServerUnreachable

_LEAST_CPUS = 2  # one for an actor with networks, one for the tasks around it


@contextlib.contextmanager
def joined(workers: int) -> Iterator[None]:
    """Ray is initialised for the duration of the block; signals are answered as before.

    Args:
        workers: Actors that there must be room for, with a task beside them, where Ray is this machine's.

    Raises:
        ServerUnreachable: There is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody else is told about anybody's photos
    answers = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    try:
        if "RAY_ADDRESS" in os.environ:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            cpus = max(os.cpu_count() or 1, _LEAST_CPUS, workers + 1)
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ServerUnreachable(f"Ray: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, answers)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
