"""What an operator looks at: the queries of dashboards and alerts in `docker/`, and the metrics there are for them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT

ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((ROOT / "docker" / "grafana" / "dashboards").glob("*.json"))
RECORDED = ROOT / "tests" / "recorded"
_RATE_INTERVAL = "10s"
_WAITING = re.compile(r"\brestore_queue_(?:depth|oldest_age_seconds)\b(\{[^}]*\})?")
_NO_WORKER = 'job!="latent-pmrf-worker"'
_NAME = re.compile(r"\b(?:restore|nv|process)_[a-z_]+\b|\bup\b")
_COMPARISON = re.compile(r"\s(==|!=|<=|>=|<|>)\s(?!bool)")
_ABSENT = re.compile(r"^absent\((.*)\)$")

# Only a Triton that sees a GPU tells these; their names are in its program (2.51).
GPU_METRICS = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}


@dataclass(frozen=True, slots=True)
class Query:
    """A question to Prometheus.

    Attributes:
        where: Panel or alert that asks it.
        expr: PromQL that has an answer whenever there are data, an alert's condition as 0 or 1.
    """

    where: str
    expr: str

    @property
    def metrics(self) -> set[str]:
        """Names of the series it needs."""
        return set(_NAME.findall(self.expr))

    @property
    def needs_gpu(self) -> bool:
        """Whether only a Triton with a GPU answers it."""
        return bool(self.metrics & GPU_METRICS)


def boards() -> list[dict[str, Any]]:
    """The dashboards as they are provisioned."""
    return [json.loads(path.read_text()) for path in DASHBOARDS]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """What a dashboard shows, without the headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panel_queries() -> list[Query]:
    """Every query of every panel, as Grafana sends it."""
    return [
        Query(f"{board['title']} / {panel['title']}", target["expr"].replace("$__rate_interval", _RATE_INTERVAL))
        for board in boards()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def alert_queries() -> list[Query]:
    """Every alert's condition in a form that answers 0 or 1; of `absent(x)`, whether there is an x."""
    return [Query(rule["alert"], _COMPARISON.sub(r" \1 bool ", _present(rule["expr"]))) for rule in alerts()]


def asks_no_worker_what_waits(query: Query) -> bool:
    """Whether a query takes depth and age of the queues from processes that look all the time."""
    return all(_NO_WORKER in selector for selector in _WAITING.findall(query.expr))


def recorded_triton_metrics() -> list[str]:
    """What a real Triton 2.51 said of four networks of its Python backend, before and after some requests.

    It had no GPU, and its networks were identities: names and labels are true, values mean nothing.
    """
    return [(RECORDED / f"triton_metrics_{when}.txt").read_text() for when in ("before", "after")]


def names_in(exposition: str) -> set[str]:
    """Names of the series in a text of Prometheus' format."""
    return {match[0] for line in exposition.splitlines() if (match := re.match(r"[a-z]\w*", line))}


def _present(expr: str) -> str:
    return _ABSENT.sub(r"\1", expr)


def runbooks(document: Path) -> set[str]:
    """Anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
