"""`k8s/`: who may connect to whom. Everything is tried that is not meant to be, too."""

import itertools

import pytest

from tests.kubernetes import FOLDER, OWN_NAMESPACE, Pod, build, may_connect, of_kind, overlay, pod

REDIS = Pod({"app": "latent-pmrf-redis"}, OWN_NAMESPACE, {"redis": 6379})
STRANGER = Pod({"app": "stranger"}, OWN_NAMESPACE, {"http": 80})


def elsewhere(namespace, port=80, **labels):
    return Pod(
        {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()},
        {"kubernetes.io/metadata.name": namespace},
        {"port": port},
    )


KEDA = elsewhere("keda", app="keda-operator")
OPERATOR = elsewhere("redis-operator", app="redis-operator")
PROMETHEUS = elsewhere("monitoring", app_kubernetes_io__name="prometheus")
NAMES = Pod({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}, {"dns": 53})
CALLER = Pod({}, {"kubernetes.io/metadata.name": "ingress-nginx", "latent-pmrf/may-call": "true"}, {"http": 80})
TEMPO = Pod(
    {"app.kubernetes.io/name": "tempo"}, {"kubernetes.io/metadata.name": "monitoring"}, {"otlp": 4318, "http": 3200}
)
OUTSIDER = elsewhere("default", app="curl")
OTHERS = {
    "redis": REDIS,
    "stranger": STRANGER,
    "keda": KEDA,
    "operator": OPERATOR,
    "prometheus": PROMETHEUS,
    "names": NAMES,
    "caller": CALLER,
    "outsider": OUTSIDER,
    "tempo": TEMPO,
}

MEANT = {
    *(("gateway", "redis", 6379), ("worker", "redis", 6379), ("keda", "redis", 6379), ("operator", "redis", 6379)),
    *(("caller", "gateway", 8000), ("caller", "gateway", 50051)),
    *(("prometheus", "gateway", 8000), ("prometheus", "worker", 8001)),
    *((name, "names", 53) for name in ("gateway", "worker", "redis", "stranger")),
}
MEANT_WITH_TRITON = {("worker", "triton", 8001), ("prometheus", "triton", 8002), ("triton", "names", 53)}


def connections(objects):
    """Every connection that the policies allow between the pods above, on ports that somebody listens on."""
    policies = list(of_kind(objects, "NetworkPolicy").values())
    own = {name.removeprefix("latent-pmrf-"): pod(each) for name, each in of_kind(objects, "Deployment").items()}
    pods = OTHERS | own
    inside = {name for name, each in pods.items() if each.namespace == OWN_NAMESPACE}
    return {
        (source, target, port)
        for source, target in itertools.permutations(pods, 2)
        if {source, target} & inside
        for port in pods[target].ports.values()
        if may_connect(policies, pods[source], pods[target], port)
    }


def test_without_triton_these_connections_and_no_others():
    assert connections(overlay("cpu")) == MEANT


def test_with_triton_these_connections_and_no_others():
    assert connections(overlay("gpu")) == MEANT | MEANT_WITH_TRITON


def test_without_the_streams_the_autoscaler_does_not_reach_redis(with_component):
    assert connections(with_component("cpu", "scale-by-prometheus")) == MEANT - {("keda", "redis", 6379)}


@pytest.mark.parametrize(("name", "others"), [("cpu", set()), ("gpu", MEANT_WITH_TRITON)])
def test_spans_reach_their_collector_and_nothing_else_is_opened(with_component, name, others):
    added = {("gateway", "tempo", 4318), ("worker", "tempo", 4318)}
    assert connections(with_component(name, "tracing")) == MEANT | others | added


def test_gateways_reach_public_addresses_for_webhooks_and_no_private_ones():
    rules = of_kind(overlay("cpu"), "NetworkPolicy")["gateway"]["spec"]["egress"]
    (block,) = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    assert block["cidr"] == "0.0.0.0/0"
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def test_who_is_not_named_gets_nothing():
    spec = of_kind(build(FOLDER / "base"), "NetworkPolicy")["nothing"]["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
