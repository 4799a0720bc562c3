"""`k8s/`: objects are valid, refer to what exists, start with settings that exist, and end in time."""

import re
import shutil
import urllib.parse

import kubernetes_validate
import pytest
import yaml

from service.composition.gateway import UPLOADS_PER_PHOTO
from service.core.settings import ENV_PREFIX, Settings
from service.telemetry.traces import wanted
from tests.images import read_image
from tests.kubernetes import (
    FOLDER,
    OVERLAYS,
    assert_restricted,
    build,
    container_of,
    of_kind,
    overlay,
    pod_of,
    selects,
    variables_of,
    written,
)

OLDEST_KUBERNETES = "1.30"  # the first that waits in preStop without a shell in the image
NEWEST_KUBERNETES = "1.37"
FOREIGN = {
    "keda.sh/v1alpha1",
    "monitoring.coreos.com/v1",
    "redis.redis.opstreelabs.in/v1beta2",
}
SECRETS = {"latent-pmrf-redis": {"url", "address", "password"}, "latent-pmrf-webhooks": {"secret"}}
GATEWAY_START_S = 15
RESULT_BYTES_PER_PX = 28  # of one of 16 bits with alpha while it is written as WebP, measured at 40 and 160 megapixels
PROGRESS_S = 600  # Kubernetes' default, after which a rollout counts as stuck
FAREWELL_S = 2.0 * 2 * 5  # two to each loop of a gateway: gauges, courier, photo runner, HTTP, gRPC


@pytest.fixture(params=OVERLAYS)
def objects(request):
    return overlay(request.param)


@pytest.fixture
def deployments(objects):
    return of_kind(objects, "Deployment")


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize(
    ("path", "document"), written(), ids=[f"{path.stem}-{document['metadata']['name']}" for path, document in written()]
)
def test_an_object_has_its_schema(path, document, version):
    if document["apiVersion"] in FOREIGN:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(document, version, strict=True)
    else:
        kubernetes_validate.validate(document, version, strict=True)


def test_an_overlay_has_its_schemas(objects):
    for document in objects:
        if document["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(document, OLDEST_KUBERNETES, strict=True)


def test_a_typing_error_is_noticed():
    (policy,) = [document for _, document in written() if document["metadata"]["name"] == "nothing"]
    wrong = {**policy, "spec": {**policy["spec"], "policyType": ["Ingress"]}}
    with pytest.raises(kubernetes_validate.ValidationError, match="policyType"):
        kubernetes_validate.validate(wrong, NEWEST_KUBERNETES, strict=True)


def test_everything_is_in_one_namespace(objects):
    assert {document["metadata"].get("namespace") for document in objects if document["kind"] != "Namespace"} == {
        "latent-pmrf"
    }


@pytest.mark.parametrize(
    "folder",
    [path.parent for path in sorted(FOLDER.rglob("kustomization.yaml"))],
    ids=lambda folder: str(folder.relative_to(FOLDER)),
)
def test_every_file_is_used(folder):
    named = (folder / "kustomization.yaml").read_text()
    assert [path.name for path in folder.iterdir() if path.is_file() and path.name not in named] == [
        "kustomization.yaml"
    ]


@pytest.mark.parametrize("name", OVERLAYS)
def test_traces_are_a_component_that_only_adds_variables(with_component, name):
    objects = with_component(name, "tracing")
    deployments = of_kind(objects, "Deployment")
    for each in ("latent-pmrf-gateway", "latent-pmrf-worker"):
        variables = variables_of(deployments[each], objects)
        assert wanted({variable: value for variable, value in variables.items() if value is not None})
        endpoint = urllib.parse.urlsplit(variables["OTEL_EXPORTER_OTLP_ENDPOINT"])
        policy = of_kind(objects, "NetworkPolicy")["spans"]["spec"]["egress"][0]
        assert endpoint.port == policy["ports"][0]["port"]
        assert f"{ENV_PREFIX}GRACE_S" in variables


def test_pods_are_restricted(objects, deployments):
    namespace = of_kind(objects, "Namespace")["latent-pmrf"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in deployments.values():
        assert_restricted(deployment)
        pod, container = pod_of(deployment), container_of(deployment)
        assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}


def test_pods_ask_for_what_they_need(deployments):
    for deployment in deployments.values():
        resources = container_of(deployment)["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]  # a process that is throttled looks silent to its neighbours


def test_a_gateway_has_memory_for_the_largest_photos_and_results(objects, deployments):
    """Where it has not, the kernel ends the container, not the decoder."""
    gateway = deployments["latent-pmrf-gateway"]
    given = variables_of(gateway, objects)
    photos = int(given[f"{ENV_PREFIX}MAX_CONCURRENT_PHOTOS"])
    settings = Settings()
    decoder = 32 * settings.max_image_px + 4 * settings.max_upload_bytes  # docs/SECURITY.md, beside the template
    resources = container_of(gateway)["resources"]
    result = max(settings.photo_bytes, RESULT_BYTES_PER_PX * settings.max_output_px)  # one that is larger is alone
    largest_stage = max(settings.decoder_children * decoder, result)  # both are work of the same threads
    bodies = UPLOADS_PER_PHOTO * photos * settings.max_upload_bytes + settings.stream_bytes
    needed = settings.photo_bytes + largest_stage + bodies + 2 * settings.result_cache_bytes
    assert int(resources["limits"]["memory"].removesuffix("Gi")) * 2**30 > needed


def test_selectors_find_pods(objects, deployments):
    labels = {name: deployment["spec"]["template"]["metadata"]["labels"] for name, deployment in deployments.items()}
    for name, deployment in deployments.items():
        assert selects(deployment["spec"]["selector"], labels[name])
    for kind in ("Service", "PodDisruptionBudget"):
        for name, document in of_kind(objects, kind).items():
            selector = document["spec"]["selector"]
            wanted = {"matchLabels": selector} if kind == "Service" else selector
            assert [found for found in labels if selects(wanted, labels[found])] == [name]
    for name, document in of_kind(objects, "PodMonitor").items():
        found = {other for other in labels if selects(document["spec"]["selector"], labels[other])}
        assert found == ({name} & deployments.keys())


def test_every_deployment_may_be_drained(objects, deployments):
    assert of_kind(objects, "PodDisruptionBudget").keys() == deployments.keys()


def test_a_drain_does_not_wait_for_pods_that_are_not_ready():
    budgets = of_kind((document for _, document in written()), "PodDisruptionBudget")
    assert {name: budget["spec"].get("unhealthyPodEvictionPolicy") for name, budget in budgets.items()} == {
        f"latent-pmrf-{name}": "AlwaysAllow" for name in ("gateway", "worker", "triton")
    }


def test_ports_are_there(objects, deployments):
    for name, service in of_kind(objects, "Service").items():
        names = {port["name"] for port in container_of(deployments[name])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for name, monitor in of_kind(objects, "PodMonitor").items():
        if name in deployments:
            names = {port["name"] for port in container_of(deployments[name])["ports"]}
            assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= names


def test_processes_listen_where_they_are_looked_for(objects, deployments):
    gateway, worker = deployments["latent-pmrf-gateway"], deployments["latent-pmrf-worker"]
    ports = {name: number(container_of(gateway), name) for name in ("http", "grpc")}
    assert container_of(gateway)["args"] == ["gateway", "--host", "0.0.0.0", "--port", str(ports["http"])]
    assert variables_of(gateway, objects)["LATENT_PMRF_GRPC_PORT"] == str(ports["grpc"])
    metrics = str(number(container_of(worker), "metrics"))
    assert container_of(worker)["args"] == ["worker", "--host", "0.0.0.0", "--metrics-port", metrics]


def number(container, name):
    (found,) = [port["containerPort"] for port in container["ports"] if port["name"] == name]
    return found


def test_every_pod_is_probed_three_times(deployments):
    for deployment in deployments.values():
        container = container_of(deployment)
        numbers = {port["containerPort"] for port in container["ports"]}
        names = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            assert probe.get("httpGet", {}).get("port") in names or probe["grpc"]["port"] in numbers


def test_who_starts_slowly_is_waited_for(objects, deployments):
    worker = deployments["latent-pmrf-worker"]
    wait_s = float(variables_of(worker, objects).get("LATENT_PMRF_TRITON_START_TIMEOUT_S", "0"))
    probe = container_of(worker)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > wait_s + 30


def test_who_is_told_to_end_has_time_for_the_longest_job(objects, deployments):
    for name in ("latent-pmrf-gateway", "latent-pmrf-worker"):
        variables = variables_of(deployments[name], objects)
        grace_s = float(variables["LATENT_PMRF_GRACE_S"])
        assert grace_s > float(variables["LATENT_PMRF_REQUEST_TIMEOUT_S"])
        given_s = pod_of(deployments[name])["terminationGracePeriodSeconds"]
        assert given_s >= pause_s(deployments[name]) + grace_s + FAREWELL_S
    assert pause_s(deployments["latent-pmrf-gateway"]) > 0


def test_old_workers_outlast_old_gateways(objects, deployments):
    """While a bundle replaces another, the faces of an old gateway are for old workers only."""
    gateway, worker = deployments["latent-pmrf-gateway"], deployments["latent-pmrf-worker"]["spec"]
    most = of_kind(objects, "HorizontalPodAutoscaler")["latent-pmrf-gateway"]["spec"]["maxReplicas"]
    assert worker["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    needed_s = most * GATEWAY_START_S + pod_of(gateway)["terminationGracePeriodSeconds"]
    assert needed_s < worker["minReadySeconds"] < PROGRESS_S


def test_triton_ends_after_the_calls_under_way(objects, deployments):
    if "latent-pmrf-triton" in deployments:
        triton = deployments["latent-pmrf-triton"]
        call_s = float(variables_of(deployments["latent-pmrf-worker"], objects)["LATENT_PMRF_TRITON_TIMEOUT_S"])
        (exit_s,) = [
            int(argument.partition("=")[2])
            for argument in container_of(triton)["args"]
            if argument.startswith("--exit-timeout-secs=")
        ]
        assert exit_s > call_s
        assert pod_of(triton)["terminationGracePeriodSeconds"] >= pause_s(triton) + exit_s


def pause_s(deployment):
    return container_of(deployment).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)


def test_processes_accept_their_settings(objects, deployments):
    for name in ("latent-pmrf-gateway", "latent-pmrf-worker"):
        variables = variables_of(deployments[name], objects)
        known = {f"{ENV_PREFIX}{field}".upper() for field in Settings.model_fields}
        assert variables.keys() - known == set()
        given = {key.removeprefix(ENV_PREFIX).lower(): value for key, value in variables.items() if value is not None}
        Settings(**given)


def test_kubernetes_adds_no_variables_with_our_prefix(deployments):
    for deployment in deployments.values():
        assert pod_of(deployment)["enableServiceLinks"] is False


def test_a_worker_takes_as_many_threads_as_it_asked_for(deployments):
    (threads,) = [
        variable
        for variable in container_of(deployments["latent-pmrf-worker"])["env"]
        if variable["name"] == "LATENT_PMRF_INFERENCE_THREADS"
    ]
    assert threads["valueFrom"]["resourceFieldRef"] == {"resource": "requests.cpu", "divisor": "1"}


def test_images_are_the_ones_that_are_built(deployments):
    for name, deployment in deployments.items():
        _, image = read_image(name.removeprefix("latent-pmrf-"))
        container, context = container_of(deployment), pod_of(deployment)["securityContext"]
        assert container["image"].partition(":")[0] == name
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == image.last("USER").rest
        assert {str(port["containerPort"]) for port in container["ports"]} == set(image.last("EXPOSE").words)
        is_ours = bool(image.all("ENTRYPOINT"))  # which knows where the program is
        assert is_ours != ("command" in container)


def test_triton_s_networks_are_where_the_image_has_them():
    arguments = container_of(of_kind(overlay("gpu"), "Deployment")["latent-pmrf-triton"])["args"]
    assert "--model-repository=/models" in arguments
    assert "COPY --from=build /models /models" in (FOLDER.parent / "docker" / "triton.Dockerfile").read_text()


def test_secrets_are_referred_to_and_never_written(objects):
    assert of_kind(objects, "Secret") == {}
    references = []
    for deployment in of_kind(objects, "Deployment").values():
        for variable in container_of(deployment).get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                references.append(variable["valueFrom"]["secretKeyRef"])
    references += of_kind(objects, "TriggerAuthentication")["latent-pmrf-redis"]["spec"]["secretTargetRef"]
    references.append(of_kind(objects, "Redis")["latent-pmrf-redis"]["spec"]["kubernetesConfig"]["redisSecret"])
    assert {reference["name"] for reference in references} == SECRETS.keys()
    for reference in references:
        assert reference["key"] in SECRETS[reference["name"]]


def test_the_documentation_makes_the_secrets():
    text = (FOLDER.parent / "docs" / "OPERATIONS.md").read_text().partition("## Kubernetes")[2]
    for name, keys in SECRETS.items():
        (command,) = re.findall(rf"create secret generic {name} (.*?)(?:\n[^ ]|$)", text, flags=re.DOTALL)
        assert set(re.findall(r"--from-literal=(\w+)=", command)) == keys


def test_the_address_for_the_autoscaler_holds_in_its_namespace():
    documents = [document for _, document in written()]
    (namespace,) = of_kind(documents, "Namespace")
    (redis,) = of_kind(documents, "Redis")
    text = (FOLDER.parent / "docs" / "OPERATIONS.md").read_text()
    assert re.findall(r"--from-literal=address=(\S+)", text) == [f"{redis}.{namespace}.svc:6379"]


def test_redis_is_not_ended_while_it_reads_its_file():
    (redis,) = of_kind((document for _, document in written()), "Redis").values()
    probe = redis["spec"]["livenessProbe"]
    assert probe.keys() == {"periodSeconds", "timeoutSeconds", "failureThreshold"}  # what is asked is the operator's
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_workers_call_the_triton_that_is_there(objects, deployments):
    url = variables_of(deployments["latent-pmrf-worker"], objects).get("LATENT_PMRF_TRITON_URLS")
    assert (url is not None) == ("latent-pmrf-triton" in deployments)
    assert "LATENT_PMRF_TRITON_URLS" not in variables_of(deployments["latent-pmrf-gateway"], objects)
    if url is not None:
        host, port = re.fullmatch(r"grpc://([\w-]+):(\d+)", url).groups()
        assert int(port) in {entry["port"] for entry in of_kind(objects, "Service")[host]["spec"]["ports"]}


def test_a_gpu_is_asked_for_where_there_is_one():
    triton = of_kind(overlay("gpu"), "Deployment")["latent-pmrf-triton"]
    assert container_of(triton)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod_of(triton)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {toleration["key"] for toleration in pod_of(triton)["tolerations"]} == {"nvidia.com/gpu"}
    assert "--model-config-name=gpu" in container_of(triton)["args"]
    profile = FOLDER.parent / "model_repository" / "velocity" / "configs" / "gpu.pbtxt"
    assert "KIND_GPU" in profile.read_text()
    others = [of_kind(overlay(name), "Deployment") for name in OVERLAYS]
    for deployment in (each for found in others for name, each in found.items() if name != "latent-pmrf-triton"):
        assert "nodeSelector" not in pod_of(deployment)


def test_patches_have_targets():
    there = {(document["kind"], document["metadata"]["name"]) for _, document in written()}
    targets = [
        (patch["target"]["kind"], patch["target"]["name"])
        for path in FOLDER.rglob("kustomization.yaml")
        for patch in yaml.safe_load(path.read_text()).get("patches", ())
        if "target" in patch
    ]
    assert targets
    assert set(targets) <= there  # a build says nothing of those that are not


def test_a_build_refuses_a_patch_of_nothing(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "k8s")
    patch = tmp_path / "k8s" / "overlays" / "cpu" / "worker.yaml"
    patch.write_text(patch.read_text().replace("latent-pmrf-worker", "nobody"))
    with pytest.raises(RuntimeError, match="nobody"):
        build(patch.parent)
