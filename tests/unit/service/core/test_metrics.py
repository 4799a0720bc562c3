"""Metrics: names, labels, and that two services in one process do not share a registry."""

from __future__ import annotations

import time

from service.core.metrics import Metrics
from service.core.origin import Origin
from service.core.tracing import within


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
    metrics.photos_oldest("batch", None)
    metrics.ready(True)
    metrics.photos("succeeded")
    metrics.notices("delivered")
    metrics.slots_active(2)
    metrics.slots(4)
    metrics.observe_ind_rmse(0.017)
    metrics.ode_steps(3)
    metrics.faces("restored")
    metrics.rejected("queue_full")
    metrics.cancelled("running")
    metrics.log_line_dropped()
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
        'restore_photo_queue_oldest_age_seconds{lane="batch"} 0.0',
        "restore_ready 1.0",
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
        "restore_log_lines_dropped_total 1.0",
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
        'restore_photos_total{outcome="internal"} 0.0',
        'restore_photos_total{outcome="deadline_exceeded"} 0.0',
        'restore_photos_total{outcome="abandoned"} 0.0',
        'restore_rejected_total{reason="queue_full"} 0.0',
        'restore_rejected_total{reason="deadline_exceeded"} 0.0',
        'restore_rejected_total{reason="internal"} 0.0',
        'restore_rejected_total{reason="abandoned"} 0.0',
        'restore_decoder_children_total{outcome="killed"} 0.0',
        'restore_notices_total{outcome="given_up"} 0.0',
        'restore_notices_total{outcome="refused"} 0.0',
        "restore_ready 0.0",
        'restore_cancelled_total{phase="queued"} 0.0',
        "restore_batch_slots 0.0",
        "restore_log_lines_dropped_total 0.0",
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


def test_a_scraper_that_asks_for_openmetrics_gets_it_and_any_other_the_text_format() -> None:
    metrics = Metrics()
    for accept in ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3", "Application/OpenMetrics-Text"):
        told, content_type = metrics.answer(accept)
        assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert told.endswith(b"# EOF\n")
    for accept in ("", "*/*", "text/plain;version=0.0.4", "application/json", "application/openmetrics"):
        told, content_type = metrics.answer(accept)
        assert content_type == metrics.content_type
        assert b"# EOF" not in told


def test_durations_without_a_trace_have_no_exemplar() -> None:
    metrics = Metrics()
    metrics.observe_request("/restore", 0.3)
    told, _ = metrics.answer("application/openmetrics-text")
    assert b" # {" not in told


def test_a_duration_within_a_trace_leads_to_it() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    metrics = Metrics()
    with within(Origin("", f"00-{trace}-00f067aa0ba902b7-01")):
        metrics.observe_request("/restore", 0.3)
        metrics.observe_stage("decode", 0.3)
    told, _ = metrics.answer("application/openmetrics-text")
    assert told.decode().count(f' # {{trace_id="{trace}"}} 0.3') == len(("request", "stage"))
    assert trace.encode() not in metrics.render()
