"""`k8s/`: what the autoscalers look at exists, under the names that the code gives it."""

import pytest

from service.brokers.keys import QueueKeys, prefix_for_bundle
from service.core.manifest import load_manifest
from service.core.settings import Settings
from service.core.types import Lane
from tests.kubernetes import FOLDER, OVERLAYS, of_kind, overlay, variables_of
from tests.monitoring import Query, asks_no_worker_what_waits
from tests.processes import ROOT


def tag():
    lines = (FOLDER / "base" / "bundle.env").read_text().splitlines()
    (found,) = [line.removeprefix("TAG=") for line in lines if line.startswith("TAG=")]
    return found


@pytest.fixture(params=OVERLAYS)
def objects(request):
    return overlay(request.param)


@pytest.fixture
def scaled(objects):
    return of_kind(objects, "ScaledObject")["latent-pmrf-worker"]["spec"]


def slots(objects):
    return variables_of(of_kind(objects, "Deployment")["latent-pmrf-worker"], objects)["LATENT_PMRF_SLOTS"]


def test_the_streams_are_the_ones_that_workers_read(scaled):
    keys = QueueKeys(prefix_for_bundle(Settings().redis_prefix, tag()), "faces")
    asked = [(trigger["name"], trigger["metadata"]["stream"]) for trigger in scaled["triggers"]]
    assert asked == [(lane.value, keys.stream(lane)) for lane in Lane]


def test_lengths_are_asked_for(scaled):
    for trigger in scaled["triggers"]:
        assert trigger["type"] == "redis-streams"
        assert trigger["metadata"].keys() == {"stream", "streamLength"}  # with a group its pending entries would count
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_there_are_workers_for_all_that_is_there(objects, scaled):
    modifiers = scaled["advanced"]["scalingModifiers"]
    assert set(modifiers["formula"].split(" + ")) == {trigger["name"] for trigger in scaled["triggers"]}
    assert modifiers["target"] == slots(objects)
    assert modifiers["metricType"] == "AverageValue"


def test_a_worker_is_always_there(scaled):
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


def test_autoscalers_have_targets_of_their_own(objects, scaled):
    deployments = of_kind(objects, "Deployment")
    (gateways,) = of_kind(objects, "HorizontalPodAutoscaler").values()
    assert scaled["scaleTargetRef"]["name"] in deployments
    assert gateways["spec"]["scaleTargetRef"]["name"] in deployments.keys() - {scaled["scaleTargetRef"]["name"]}
    for name in ("latent-pmrf-gateway", "latent-pmrf-worker"):
        assert "replicas" not in deployments[name]["spec"]  # each application would undo the autoscaler's choice


def test_the_autoscaler_may_ask(objects, scaled):
    authentications = of_kind(objects, "TriggerAuthentication")
    assert {trigger["authenticationRef"]["name"] for trigger in scaled["triggers"]} == authentications.keys()
    (targets,) = [each["spec"]["secretTargetRef"] for each in authentications.values()]
    assert {target["parameter"] for target in targets} == {"address", "password"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_prometheus_can_be_asked_instead(with_component, name):
    objects = with_component(name, "scale-by-prometheus")
    spec = of_kind(objects, "ScaledObject")["latent-pmrf-worker"]["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["threshold"] == "1"  # the query divides by the slots of a worker
    query = Query("", trigger["metadata"]["query"])
    assert asks_no_worker_what_waits(query)
    assert query.metrics == {"restore_queue_depth", "restore_batch_slots_active", "restore_batch_slots"}
    assert "scalingModifiers" not in spec["advanced"]
    assert of_kind(objects, "TriggerAuthentication") == {}


def test_the_tag_is_the_shipped_bundle_s():
    if not (ROOT / "model_repository" / "manifest.json").is_file():
        pytest.skip("model_repository/ has no manifest.json: the bundle is not trained yet")
    shipped = load_manifest(ROOT / "model_repository").tag
    if tag() != shipped:  # not a failure: whoever trains a bundle need not run Kubernetes
        pytest.skip(f"k8s/base/bundle.env is for {tag()}: write TAG={shipped} there before this bundle is deployed")
