"""From the settings to the queues: in this process, or in Redis, shared with others.

Photos and what became of them are common to all gateways of a deployment. Faces, and the signs that workers are alive,
are apart for each bundle: while one bundle replaces another, each gateway's faces go to workers with its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from service.brokers.keys import prefix_for_bundle
from service.brokers.memory import MemoryBroker
from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.brokers.redis_presence import Presence
from service.brokers.redis_streams import RedisBroker
from service.core.errors import DependencyUnavailable
from service.core.interfaces import Broker, JobQueue
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.settings import ENV_PREFIX, Settings, UnusableSettings
from service.core.tasks import pause

_GAUGES_S = 5.0
_BEATS_PER_LEASE = 4
# Of the objective, how long a photo of many faces takes turns. Everyday photos at 2.5 times what the service can do, in
# a simulation: with a sixth none is later than the objective, with a third the slowest is, and the median stays.
_TURNS_SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class FaceQueue:
    """The queue of faces and who is at its other end.

    Attributes:
        broker: The queue.
        presence: Tells whether workers are alive; None where they live and die with this process.
    """

    broker: Broker
    presence: Presence | None

    async def has_workers(self) -> bool:
        """Whether anybody takes faces; when that cannot be told, somebody may."""
        return self.presence is None or await self.presence.anybody() is not False

    async def close(self) -> None:
        """Release both."""
        try:
            await self.broker.close()
        finally:
            if self.presence is not None:
                await self.presence.close()


def open_faces(settings: Settings, manifest: Manifest, metrics: Metrics) -> FaceQueue:
    """The queue of faces; a server is not asked before it is needed.

    Raises:
        UnusableSettings: `redis_url` is not the address of a server.
    """
    turns_s = settings.latency_objective_s * _TURNS_SHARE
    if settings.redis_url is None:
        memory = MemoryBroker(max_queued_faces=settings.max_queued_faces, metrics=metrics, turns_s=turns_s)
        return FaceQueue(memory, None)
    url = settings.redis_url.get_secret_value()
    prefix = prefix_for_bundle(settings.redis_prefix, manifest.tag)
    with address_checked():
        broker = RedisBroker(
            url,
            max_queued_faces=settings.max_queued_faces,
            metrics=metrics,
            prefix=prefix,
            lease_s=settings.lease_s,
            max_deliveries=settings.max_deliveries,
            payload_ttl_s=settings.payload_ttl_s,
            turns_s=turns_s,
        )
        return FaceQueue(broker, Presence(url, prefix=prefix, lease_s=settings.lease_s))


def open_photos(settings: Settings, metrics: Metrics) -> JobQueue:
    """The queue of photos, likewise.

    Raises:
        UnusableSettings: `redis_url` is not the address of a server.
    """
    if settings.redis_url is None:
        return MemoryJobQueue(JobLimits.of(settings), metrics=metrics)
    limits = SharedJobLimits(
        max_queued_photos=settings.max_queued_photos,
        result_ttl_s=settings.result_ttl_s,
        payload_ttl_s=settings.payload_ttl_s,
        lease_s=settings.lease_s,
        max_deliveries=settings.max_deliveries,
    )
    with address_checked():
        return RedisJobQueue(
            settings.redis_url.get_secret_value(), limits, metrics=metrics, prefix=settings.redis_prefix
        )


def beat_s(settings: Settings, longest_s: float) -> float:
    """Seconds between two signs of life of who has work on lease."""
    return min(longest_s, settings.lease_s / _BEATS_PER_LEASE)


async def keep_gauges(faces: FaceQueue, photos: JobQueue, stop: asyncio.Event) -> None:
    """Show until `stop` is set what waits in shared queues, also while this process neither brings nor takes it."""
    while not stop.is_set():
        with contextlib.suppress(DependencyUnavailable):
            await faces.broker.depth()
            await photos.depth()
        await pause(_GAUGES_S, stop)


@contextlib.contextmanager
def address_checked() -> Iterator[None]:
    """What a block says of the server's address is told as an `UnusableSettings`."""
    try:
        yield
    except ValueError as error:
        raise UnusableSettings(f"{ENV_PREFIX}REDIS_URL: {error}") from error
