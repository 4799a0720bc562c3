"""A real Prometheus on a free port, with rules, that scrapes what it is told to."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
import yaml

from loadtest.process import held_port
from tests.processes import until

_INTERVAL = "1s"
_LONG_S = 3600
_EXEMPLARS = "--enable-feature=exemplar-storage"


class PrometheusServer:
    """Scrapes and evaluates every second; what an alert waits for (`for`) is left out.

    Args:
        folder: For its data and configuration.
        targets: Addresses `HOST:PORT` by job.
        rules: Files of rules.
    """

    def __init__(self, folder: Path, targets: Mapping[str, Iterable[str]], rules: Iterable[Path]) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            pytest.skip("no prometheus on this machine: it is Debian's package of this name")
        self._binary = binary
        self._folder = folder
        jobs = [{"job_name": job, "file_sd_configs": [{"files": [str(folder / f"{job}.json")]}]} for job in targets]
        for job, where in targets.items():
            self.look_at(job, where)
        (folder / "rules").mkdir()
        for path in rules:
            (folder / "rules" / path.name).write_text(yaml.safe_dump(_impatient(yaml.safe_load(path.read_text()))))
        configuration = {
            "global": {"scrape_interval": _INTERVAL, "scrape_timeout": _INTERVAL, "evaluation_interval": _INTERVAL},
            "rule_files": [str(folder / "rules" / "*.yml")],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(timeout=30)
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        port = self._held.enter_context(held_port())
        self._client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        arguments = [f"--config.file={self._folder / 'prometheus.yml'}", f"--storage.tsdb.path={self._folder / 'data'}"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._binary, *arguments, _EXEMPLARS, f"--web.listen-address=127.0.0.1:{port}"], stderr=log
            )
        until(self._answers, patience_s=60)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._client.close()
        self._held.close()

    def look_at(self, job: str, targets: Iterable[str]) -> None:
        """Scrape these addresses for a job from now on, and no others."""
        written = self._folder / "targets"
        written.write_text(json.dumps([{"targets": list(targets)}]))
        written.replace(self._folder / f"{job}.json")

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The answer to a query now: series with their values.

        Raises:
            RuntimeError: It is not a query, or cannot be answered.
        """
        answer = self._client.get("/api/v1/query", params={"query": expr}).json()
        if answer["status"] != "success":
            raise RuntimeError(f"{expr}: {answer['error']}")
        return list(answer["data"]["result"])

    def value(self, expr: str) -> float | None:
        """The only value of a query, or None when it has none."""
        found = self.ask(expr)
        return float(found[0]["value"][1]) if found else None

    def exemplars(self, expr: str) -> list[dict[str, Any]]:
        """Labels of the exemplars that it has kept for the series of a query."""
        span = {"start": time.time() - _LONG_S, "end": time.time() + _LONG_S}
        answer = self._client.get("/api/v1/query_exemplars", params={"query": expr, **span}).json()
        return [exemplar["labels"] for series in answer["data"] for exemplar in series["exemplars"]]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._folder / "log").read_text())
        try:
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def _impatient(rules: dict[str, Any]) -> dict[str, Any]:
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules
