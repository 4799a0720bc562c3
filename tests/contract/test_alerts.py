"""Alert rules: well formed, each tried in a history in which it fires, each with a runbook that exists."""

import re
import shutil
import subprocess

import pytest
import yaml

from service.api.problems import STATUS, catalogue
from service.core.errors import Abandoned, DeadlineExceeded, Draining, InferenceFailed, InvalidOption, ServiceError
from service.core.metrics import Metrics
from service.rpc import restoration_pb2 as pb
from service.rpc.server import SERVICE
from service.rpc.status import CODES
from tests.monitoring import ALERTS, alerts, runbooks
from tests.processes import ROOT

HISTORIES = ALERTS.with_name("alerts_test.yml")
NAMES = [rule["alert"] for rule in alerts()]


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on this machine: it comes with Debian's package prometheus")
    return found


def run(*arguments):
    return subprocess.run(list(map(str, arguments)), cwd=ROOT, capture_output=True, text=True, check=False)


def asked():
    return [case for test in yaml.safe_load(HISTORIES.read_text())["tests"] for case in test["alert_rule_test"]]


def test_the_rules_are_well_formed(promtool):
    done = run(promtool, "check", "rules", ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_fire_when_they_should_and_only_then(promtool):
    done = run(promtool, "test", "rules", HISTORIES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_altered_fails_its_histories(promtool, tmp_path):
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text().replace("sum(restore_batch_slots) == 0", "vector(1) == 0"))
    (tmp_path / HISTORIES.name).write_text(HISTORIES.read_text())
    done = run(promtool, "test", "rules", tmp_path / HISTORIES.name)
    assert done.returncode == 1
    assert "LatentPmrfNoWorkers" in done.stdout + done.stderr


def test_every_rule_has_a_history_in_which_it_fires_and_one_in_which_it_is_quiet():
    assert {case["alertname"] for case in asked() if case.get("exp_alerts")} == set(NAMES)
    assert {case["alertname"] for case in asked() if not case.get("exp_alerts")} == set(NAMES)


def regexes(label, matcher="=~"):
    """What the alert on errors means by a label, its own errors last."""
    (expr,) = [rule["expr"] for rule in alerts() if rule["alert"] == "LatentPmrfErrors"]
    return re.findall(rf'{label}{matcher}"([^"]+)"', expr)


def test_errors_are_those_of_callers_not_of_probes():
    (meant,), (spared,) = set(regexes("route")), set(regexes("route", "!~"))
    methods = [
        f"/{SERVICE}/{method}" for method in pb.DESCRIPTOR.services_by_name["RestorationService"].methods_by_name
    ]
    routes = ("/restore", "/v1/restorations", "/v1/restorations/{job_id}", "/v1/restorations/{job_id}/result", *methods)
    assert all(re.fullmatch(meant, route) for route in routes)
    told_again = [route for route in routes if re.fullmatch(spared, route)]
    assert told_again == ["/v1/restorations/{job_id}/result", f"/{SERVICE}/GetResult"]
    for route in ("/livez", "/readyz", "/metrics", "/v2/health/ready", "/", "unmatched"):
        assert not re.fullmatch(meant, route)


def test_errors_are_the_service_s():
    (meant,) = regexes("code")
    ours = {entry["status"] for entry in catalogue().values() if entry["status"] >= 500}
    assert {status for status in ours if not re.fullmatch(meant, str(status))} == {STATUS[DeadlineExceeded]}
    assert not re.fullmatch(meant, "422")
    assert all(re.fullmatch(meant, CODES[error].name) for error in (InferenceFailed, Abandoned, ServiceError))
    callers = (DeadlineExceeded, Draining, InvalidOption)  # or those of a gateway that is told to go
    assert not any(re.fullmatch(meant, CODES[error].name) for error in callers)


def test_a_decoder_s_end_is_alarming_or_usual():
    (expr,) = [rule["expr"] for rule in alerts() if rule["alert"] == "LatentPmrfDecodersLost"]
    (usual,) = re.findall(r'outcome!~"([^"]+)"', expr)
    told = Metrics().render().decode()
    outcomes = re.findall(r'restore_decoder_children_total\{outcome="(\w+)"\}', told)
    assert [outcome for outcome in outcomes if re.fullmatch(usual, outcome)] == ["decoded", "refused"]
    assert "killed" in outcomes


@pytest.mark.parametrize("name", ["rejected", "notices", "photos"])
def test_what_alerts_name_stands_at_zero_from_the_start(name):
    """Else the first event would not be seen to rise."""
    labels = re.findall(rf'restore_{name}_total\{{\w+=~?"([^"]+)"', " ".join(rule["expr"] for rule in alerts()))
    told = Metrics().render().decode()
    assert labels
    for label in set("|".join(labels).split("|")):
        assert re.search(rf'restore_{name}_total\{{\w+="{label}"\}} 0\.0', told), label


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("rule", alerts(), ids=NAMES)
def test_whoever_is_woken_is_told_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor in runbooks(ROOT / document)
