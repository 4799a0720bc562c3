"""What an operator can see: one object, built by `service.composition` and passed down, rendered at `/metrics`.

Every name starts with `restore_`. Label `stage` holds the file name of the stage (`decode`, `paste`, `sampler`, ...),
label `network` the name of a network in the manifest. No label holds an id. Durations of requests and stages carry the
trace of one of those that they count, where there is one: an exemplar, told in the OpenMetrics format only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from service.core.errors import (
    Abandoned,
    DeadlineExceeded,
    DependencyUnavailable,
    InferenceFailed,
    QueueFull,
    ServiceError,
)
from service.core.tracing import exemplar
from service.core.types import Lane

_REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0)
_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_IND_RMSE_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2)

# What alarms wait for stands at zero from the start: a counter that appears with its first event seems not to rise.
_DEAD_REASONS = ("deliveries", "payload_lost", "payload_unreadable")
_PHOTOS_LOST = (ServiceError, DeadlineExceeded, Abandoned)
_ALARMING_REFUSALS = (QueueFull, InferenceFailed, DeadlineExceeded, DependencyUnavailable, Abandoned, ServiceError)
_DECODED = ("decoded", "refused")
_DECODERS_LOST = ("crashed", "out_of_time", "out_of_memory", "garbled", "defect", "killed", "lost")
_NOTICES_LOST = ("refused", "given_up")
_PHASES = ("queued", "running")

_OPENMETRICS = "application/openmetrics-text"


class Metrics:
    """The service's counters, gauges and histograms in one registry of their own: two in one process do not meet."""

    content_type: str = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        """Register everything once; a metric without observations is rendered as zero or not at all."""
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Counter("restore_requests", "Answered requests.", ("route", "code"), registry=own)
        self._request_s = Histogram(
            "restore_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_REQUEST_BUCKETS_S,
            registry=own,
        )
        self._stage_s = Histogram(
            "restore_stage_duration_seconds",
            "Time in one stage, per photo or face.",
            ("stage",),
            buckets=_STAGE_BUCKETS_S,
            registry=own,
        )
        self._wait_s = Histogram(
            "restore_queue_wait_seconds",
            "From submission to a worker.",
            ("lane",),
            buckets=_WAIT_BUCKETS_S,
            registry=own,
        )
        self._network_s = Histogram(
            "restore_network_duration_seconds",
            "Time of one network call.",
            ("network",),
            buckets=_STAGE_BUCKETS_S,
            registry=own,
        )
        self._batch = Histogram(
            "restore_batch_size", "Rows of one network call.", ("network",), buckets=_BATCH_BUCKETS, registry=own
        )
        self._depth = Gauge("restore_queue_depth", "Faces waiting.", ("lane",), registry=own)
        self._oldest = Gauge(
            "restore_queue_oldest_age_seconds",
            "How long the oldest photo has waited for workers.",
            ("lane",),
            registry=own,
        )
        self._reclaimed = Counter(
            "restore_reclaimed", "Entries taken from a process that was silent for too long.", ("lane",), registry=own
        )
        self._dead = Counter("restore_dead", "Entries given up, by reason.", ("reason",), registry=own)
        self._photos_waiting = Gauge("restore_photo_queue_depth", "Photos waiting.", ("lane",), registry=own)
        self._oldest_photo = Gauge(
            "restore_photo_queue_oldest_age_seconds",
            "How long the oldest photo has waited for a gateway.",
            ("lane",),
            registry=own,
        )
        self._ready = Gauge("restore_ready", "Whether the process can do its work: 1, or 0 as /readyz.", registry=own)
        self._slots = Gauge("restore_batch_slots_active", "Faces in the sampler.", registry=own)
        self._room = Gauge("restore_batch_slots", "Faces that the sampler has room for.", registry=own)
        self._steps = Counter("restore_ode_steps", "Euler steps, one per face and step.", registry=own)
        self._photos = Counter("restore_photos", "Photos by what became of them.", ("outcome",), registry=own)
        self._decoders = Counter(
            "restore_decoder_children",
            "Processes that decoded one photo each, by what became of it.",
            ("outcome",),
            registry=own,
        )
        self._notices = Counter("restore_notices", "Deliveries to webhooks by outcome.", ("outcome",), registry=own)
        self._faces = Counter("restore_faces", "Faces by what became of them.", ("outcome",), registry=own)
        self._ind_rmse = Histogram(
            "restore_ind_rmse",
            "RMSE between a pasted face and its posterior mean, on [0, 1] pixels.",
            buckets=_IND_RMSE_BUCKETS,
            registry=own,
        )
        self._rejected = Counter("restore_rejected", "Photos refused, by error code.", ("reason",), registry=own)
        self._cancelled = Counter(
            "restore_cancelled", "Faces withdrawn or past their deadline, by phase.", ("phase",), registry=own
        )
        self._log_dropped = Counter(
            "restore_log_lines_dropped",
            "Lines of the log that nobody read in time, or that could not be written.",
            registry=own,
        )
        self._build = Info("restore_build", "Version of the service and name of its bundle.", registry=own)
        self._begin_at_zero()

    def requests(self, route: str, code: int | str) -> None:
        """Count an answered request; `route` is the template (`/v1/restorations/{id}`), never the path itself."""
        self._requests.labels(route, str(code)).inc()

    def observe_request(self, route: str, seconds: float) -> None:
        """Record how long a request took."""
        self._request_s.labels(route).observe(seconds, exemplar())

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time of one stage, named after its file."""
        self._stage_s.labels(stage).observe(seconds, exemplar())

    def observe_queue_wait(self, lane: str, seconds: float) -> None:
        """Record how long a face waited in its lane."""
        self._wait_s.labels(lane).observe(seconds)

    def observe_network(self, network: str, rows: int, seconds: float) -> None:
        """Record one network call: rows in the batch and duration."""
        self._batch.labels(network).observe(rows)
        self._network_s.labels(network).observe(seconds)

    def queue_depth(self, lane: str, faces: int) -> None:
        """Set the number of faces waiting in a lane."""
        self._depth.labels(lane).set(faces)

    def queue_oldest(self, lane: str, since_s: float | None) -> None:
        """Tell since when, in Unix time, the oldest photo of a lane waits for workers; None when none does."""
        self._oldest.labels(lane).set_function(partial(_age_s, since_s))

    def reclaimed(self, lane: str, entries: int) -> None:
        """Count entries of a queue that were taken from a process that had been silent for too long."""
        self._reclaimed.labels(lane).inc(entries)

    def dead(self, reason: str) -> None:
        """Count an entry that was given up: `deliveries`, `payload_lost` or `payload_unreadable`."""
        self._dead.labels(reason).inc()

    def photos_waiting(self, lane: str, photos: int) -> None:
        """Set the number of photos waiting in a lane for a gateway."""
        self._photos_waiting.labels(lane).set(photos)

    def photos_oldest(self, lane: str, since_s: float | None) -> None:
        """Tell since when, in Unix time, the oldest photo of a lane waits for a gateway; None when none does."""
        self._oldest_photo.labels(lane).set_function(partial(_age_s, since_s))

    def ready(self, is_ready: bool) -> None:
        """State whether the process can do its work now."""
        self._ready.set(is_ready)

    def slots_active(self, faces: int) -> None:
        """Set the number of faces in the sampler."""
        self._slots.set(faces)

    def slots(self, faces: int) -> None:
        """State how many faces the sampler has room for; a process without a sampler has none."""
        self._room.set(faces)

    def ode_steps(self, rows: int) -> None:
        """Count Euler steps: one per row of a velocity call."""
        self._steps.inc(rows)

    def photos(self, outcome: str) -> None:
        """Count a photo: `succeeded`, `cancelled` or an error's code; once, by whoever answers it or stores its end."""
        self._photos.labels(outcome).inc()

    def photo_failed(self, code: str) -> None:
        """Count a photo that has failed, and why."""
        self.photos(code)
        self.rejected(code)

    def decoder_children(self, outcome: str) -> None:
        """Count a decoder's process that has ended.

        `decoded` or `refused` a photo; it was `crashed` by it, ran `out_of_time` or `out_of_memory`, wrote something
        `garbled`, had a `defect`, was `killed` over a photo from outside, mostly for memory, or was `lost` without one.
        """
        self._decoders.labels(outcome).inc()

    def notices(self, outcome: str) -> None:
        """Count an attempt to deliver a notice: `delivered`, `failed`, `refused`, `gone`; the last one: `given_up`."""
        self._notices.labels(outcome).inc()

    def faces(self, outcome: str) -> None:
        """Count a face: `restored`, `skipped` or an error code."""
        self._faces.labels(outcome).inc()

    def observe_ind_rmse(self, ind_rmse: float) -> None:
        """Record how far a pasted face is from its posterior mean, 0 to 1."""
        self._ind_rmse.observe(ind_rmse)

    def rejected(self, reason: str) -> None:
        """Count a refused photo by its error code."""
        self._rejected.labels(reason).inc()

    @contextlib.contextmanager
    def refusals_counted(self) -> Iterator[None]:
        """Count a photo that the block refuses, before the gateway sees it."""
        try:
            yield
        except ServiceError as error:
            self.rejected(error.code)
            raise

    def cancelled(self, phase: str) -> None:
        """Count a face dropped because nobody waits for it: phase `queued` or `running`."""
        self._cancelled.labels(phase).inc()

    def log_line_dropped(self) -> None:
        """Count a line of the log that was not written."""
        self._log_dropped.inc()

    def build_info(self, *, version: str, model: str) -> None:
        """State what runs: the service's version and the bundle as `name@version`."""
        self._build.info({"version": version, "model": model})

    def render(self) -> bytes:
        """Everything in the Prometheus text format; serve it with `content_type`."""
        return generate_latest(self.registry)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """Everything, and its content type: OpenMetrics, with exemplars, where the Accept header asks for it."""
        media_types = {choice.partition(";")[0].strip().lower() for choice in accept.split(",")}
        if _OPENMETRICS in media_types:
            encode, content_type = choose_encoder(_OPENMETRICS)  # of a version that we choose, not the caller
            return encode(self.registry), content_type
        return self.render(), self.content_type

    def _begin_at_zero(self) -> None:
        for counter, values in (
            (self._dead, _DEAD_REASONS),
            (self._reclaimed, tuple(Lane)),
            (self._photos, ("succeeded", "cancelled", *(error.code for error in _PHOTOS_LOST))),
            (self._rejected, tuple(error.code for error in _ALARMING_REFUSALS)),
            (self._notices, _NOTICES_LOST),
            (self._decoders, (*_DECODED, *_DECODERS_LOST)),
            (self._cancelled, _PHASES),
        ):
            for value in values:
                counter.labels(str(value))


def _age_s(since_s: float | None) -> float:
    return 0.0 if since_s is None else max(0.0, time.time() - since_s)
