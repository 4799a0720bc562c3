"""Ray for as long as it is needed: the cluster of RAY_ADDRESS, or one of this machine's processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

import ray

from service.client import ServerUnreachable

_AGENT_PATIENCE_MS = "60000"  # a node gives up when its agent takes longer; Ray's own is little on a busy machine
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
        _begin(workers)
    except Exception as error:  # what Ray says of a node is nothing narrower
        raise ServerUnreachable(f"Ray: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, answers)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _begin(workers: int) -> None:
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    os.environ.setdefault("RAY_agent_register_timeout_ms", _AGENT_PATIENCE_MS)
    cpus = max(os.cpu_count() or 1, _LEAST_CPUS, workers + 1)
    for last in (False, False, True):
        try:
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception:  # its own patience with a busy machine is 30 s
            ray.shutdown()
            if last:
                raise
