"""Metrics: names, labels, and that two services in one process do not share a registry."""

from __future__ import annotations

import time

from service.core.metrics import Metrics


def test_every_metric_is_rendered_under_the_prefix_with_its_labels() -> None:
    metrics = Metrics()
    metrics.requests("/restore", 200)
    metrics.observe_request("/restore", 0.3)
    metrics.observe_stage("paste", 0.004)
    metrics.observe_queue_wait("interactive", 0.01)
    metrics.observe_network("velocity", 3, 0.05)
    metrics.queue_depth("batch", 7)
    metrics.queue_oldest("batch", None)
    metrics.reclaimed("batch", 2)
    metrics.dead("deliveries")
    metrics.photos_waiting("batch", 5)
    metrics.photos("succeeded")
    metrics.notices("delivered")
    metrics.slots_active(2)
    metrics.slots(4)
    metrics.observe_ind_rmse(0.017)
    metrics.ode_steps(3)
    metrics.faces("restored")
    metrics.rejected("queue_full")
    metrics.cancelled("running")
    metrics.build_info(version="1", model="xs@2")
    text = metrics.render().decode()
    for line in (
        'restore_requests_total{code="200",route="/restore"} 1.0',
        'restore_request_duration_seconds_count{route="/restore"} 1.0',
        'restore_stage_duration_seconds_count{stage="paste"} 1.0',
        'restore_queue_wait_seconds_count{lane="interactive"} 1.0',
        'restore_batch_size_sum{network="velocity"} 3.0',
        'restore_network_duration_seconds_count{network="velocity"} 1.0',
        'restore_queue_depth{lane="batch"} 7.0',
        'restore_queue_oldest_age_seconds{lane="batch"} 0.0',
        'restore_reclaimed_total{lane="batch"} 2.0',
        'restore_dead_total{reason="deliveries"} 1.0',
        'restore_photo_queue_depth{lane="batch"} 5.0',
        'restore_photos_total{outcome="succeeded"} 1.0',
        'restore_notices_total{outcome="delivered"} 1.0',
        "restore_batch_slots_active 2.0",
        "restore_batch_slots 4.0",
        'restore_ind_rmse_bucket{le="0.015"} 0.0',
        'restore_ind_rmse_bucket{le="0.02"} 1.0',
        "restore_ode_steps_total 3.0",
        'restore_faces_total{outcome="restored"} 1.0',
        'restore_rejected_total{reason="queue_full"} 1.0',
        'restore_cancelled_total{phase="running"} 1.0',
        'restore_build_info{model="xs@2",version="1"} 1.0',
    ):
        assert line in text.splitlines()
    assert metrics.content_type.startswith("text/plain")


def test_what_alarms_wait_for_stands_at_zero_before_it_happens() -> None:
    lines = Metrics().render().decode().splitlines()
    for line in (
        'restore_dead_total{reason="deliveries"} 0.0',
        'restore_dead_total{reason="payload_lost"} 0.0',
        'restore_dead_total{reason="payload_unreadable"} 0.0',
        'restore_reclaimed_total{lane="interactive"} 0.0',
        'restore_reclaimed_total{lane="batch"} 0.0',
        'restore_photos_total{outcome="failed"} 0.0',
        'restore_rejected_total{reason="queue_full"} 0.0',
        'restore_rejected_total{reason="deadline_exceeded"} 0.0',
        'restore_notices_total{outcome="given_up"} 0.0',
        'restore_cancelled_total{phase="queued"} 0.0',
        "restore_batch_slots 0.0",
    ):
        assert line in lines


def test_two_instances_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.faces("restored")
    assert b"restore_faces_total{" not in second.render()


def test_the_age_of_the_oldest_goes_on_growing() -> None:
    metrics = Metrics()

    def age_s() -> float:
        lines = metrics.render().decode().splitlines()
        return float(next(line for line in lines if line.startswith("restore_queue_oldest")).split()[-1])

    metrics.queue_oldest("batch", time.time() - 100)
    first = age_s()
    assert 100 <= first < age_s()
    metrics.queue_oldest("batch", time.time() + 100)
    assert age_s() == 0
