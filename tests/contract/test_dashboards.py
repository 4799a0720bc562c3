"""Dashboards: what they ask for exists, and what exists is shown."""

import pytest
import yaml

from service.core.metrics import Metrics
from tests.monitoring import (
    DASHBOARDS,
    GPU_METRICS,
    Query,
    alert_queries,
    asks_no_worker_what_waits,
    boards,
    names_in,
    panel_queries,
    panels,
    recorded_triton_metrics,
)
from tests.processes import ROOT

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}


def own_series():
    """Names of the service's series by the metric they belong to."""
    families = Metrics().registry.collect()
    return {family.name: {f"{family.name}{suffix}" for suffix in SUFFIXES[family.type]} for family in families}


OWN = own_series()


@pytest.mark.parametrize("query", [*panel_queries(), *alert_queries()], ids=lambda query: query.where)
def test_every_metric_that_is_asked_for_exists(query):
    triton = names_in(recorded_triton_metrics()[0]) | GPU_METRICS
    assert query.metrics - set().union(*OWN.values()) - triton - {"up"} == set()
    assert query.metrics


@pytest.mark.parametrize("query", [*panel_queries(), *alert_queries()], ids=lambda query: query.where)
def test_workers_are_not_asked_what_waits(query):
    assert asks_no_worker_what_waits(query)


def test_who_asks_workers_what_waits_is_noticed():
    asked = "sum(restore_queue_depth) + max(restore_queue_oldest_age_seconds{%s})"
    assert not asks_no_worker_what_waits(Query("", asked % 'job!="latent-pmrf-worker"'))
    assert not asks_no_worker_what_waits(Query("", 'restore_queue_depth{lane="batch"}'))
    assert asks_no_worker_what_waits(Query("", 'restore_queue_depth{lane="batch",job!="latent-pmrf-worker"}'))


def test_every_metric_of_the_service_is_shown():
    asked = set().union(*(query.metrics for query in panel_queries()))
    ours = {name: series for name, series in OWN.items() if name.startswith("restore_")}
    assert [name for name, series in ours.items() if not series & asked] == []


@pytest.mark.parametrize("board", boards(), ids=[path.stem for path in DASHBOARDS])
def test_a_dashboard_is_whole(board):
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("board", boards(), ids=[path.stem for path in DASHBOARDS])
def test_panels_lie_side_by_side(board):
    taken = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_dashboards_have_names_of_their_own():
    assert len({board["uid"] for board in boards()}) == len({board["title"] for board in boards()}) == len(DASHBOARDS)


def test_grafana_is_told_where_they_are():
    folder = ROOT / "docker" / "grafana" / "provisioning" / "dashboards"
    (provider,) = yaml.safe_load((folder / "latent_pmrf.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
