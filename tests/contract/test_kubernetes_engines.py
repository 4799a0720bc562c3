"""`k8s/engines` and `k8s/components/engines`: engines are built where they fit, and read by whoever needs them."""

import pytest

from service.core.manifest import load_manifest
from service.core.settings import ENV_PREFIX
from tests.images import DOCKER, read_dockerfile, read_image
from tests.kubernetes import FOLDER, assert_restricted, build, container_of, of_kind, overlay, pod_of
from tests.processes import ROOT

READERS = ("gateway", "worker", "triton")


@pytest.fixture
def served(with_component):
    return with_component("gpu", "engines", "scale-by-prometheus")


@pytest.fixture
def job():
    return of_kind(build(FOLDER / "engines"), "Job")["latent-pmrf-engines"]


def folder_of(objects):
    (config,) = [each for name, each in of_kind(objects, "ConfigMap").items() if name.startswith("latent-pmrf-engines")]
    return config["data"]["FOLDER"]


def test_the_folder_is_named_after_the_shipped_bundle(served):
    if not (ROOT / "model_repository" / "manifest.json").is_file():
        pytest.skip("model_repository/ has no manifest.json: the bundle is not trained yet")
    shipped = load_manifest(ROOT / "model_repository")
    if not folder_of(served).startswith(f"/engines/{shipped.name}-{shipped.version}-"):  # as with the tag: no failure
        pytest.skip(f"k8s/engines and k8s/components/engines write {folder_of(served)}: name {shipped.version} there")


def options_of(container):
    return dict(argument.split("=", 1) for argument in container["args"])


def test_what_the_job_writes_is_what_the_others_read(job, served):
    container = container_of(job)
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert options_of(container)["--target"] == "$(ENGINES)"
    assert variables == {"ENGINES": folder_of(served)}


def test_everybody_reads_the_volume_and_nobody_else_writes_to_it(job, served):
    (claim,) = of_kind(build(FOLDER / "engines"), "PersistentVolumeClaim").values()
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    deployments = of_kind(served, "Deployment")
    for pod, container in [(pod_of(each), container_of(each)) for each in (job, *deployments.values())]:
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "engines"]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "engines"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mount["mountPath"] == "/engines"
        assert mount.get("readOnly", False) == (container["name"] != "engines")
    assert folder_of(served).startswith("/engines/")
    assert container_of(job)["args"][0] == "--model-repository=/models"  # in the image


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_the_folder_that_is_named_once(served, name):
    container = container_of(of_kind(served, "Deployment")[f"latent-pmrf-{name}"])
    wanted = "ENGINES" if name == "triton" else f"{ENV_PREFIX}MODEL_REPOSITORY"
    (variable,) = [variable for variable in container["env"] if variable["name"] == wanted]
    source = variable["valueFrom"]["configMapKeyRef"]
    assert source["key"] == "FOLDER"
    assert source["name"] != "latent-pmrf-engines"  # with a digest: another folder is another pod


def test_triton_loads_engines_and_keeps_its_other_arguments(served):
    (before,) = [of_kind(overlay("gpu"), "Deployment")["latent-pmrf-triton"]]
    (after,) = [of_kind(served, "Deployment")["latent-pmrf-triton"]]
    changed = set(container_of(after)["args"]) ^ set(container_of(before)["args"])
    assert changed == {"--model-repository=/models", "--model-repository=$(ENGINES)"}


def test_engines_are_built_on_the_kind_of_node_that_serves_them(job, served):
    triton = of_kind(served, "Deployment")["latent-pmrf-triton"]
    for field in ("nodeSelector", "tolerations"):
        assert pod_of(job)[field] == pod_of(triton)[field]
    assert container_of(job)["resources"]["limits"]["nvidia.com/gpu"] == 1
    (image,) = read_dockerfile(DOCKER / "engines.Dockerfile")
    assert image.base == read_image("triton")[-1].base  # an engine fits one TensorRT
    context = pod_of(job)["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == image.last("USER").rest
    assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.timeout(300)  # imports torch
def test_the_job_s_arguments_are_the_export_s(job, capsys):
    from export.cli import main as export

    with pytest.raises(SystemExit) as stopped:
        export(["tensorrt", *container_of(job)["args"], "--help"])
    assert stopped.value.code == 0
    assert set(options_of(container_of(job))) <= set(capsys.readouterr().out.replace(",", " ").split())


def test_the_job_is_restricted_and_needs_no_network(job):
    assert_restricted(job)
    labels = job["spec"]["template"]["metadata"]["labels"]
    policies = of_kind(overlay("gpu"), "NetworkPolicy").items()
    selected = {name for name, policy in policies if policy["spec"]["podSelector"] == {}}
    assert selected == {"nothing", "names"}
    assert labels["app.kubernetes.io/name"] not in READERS  # whom the other policies let out
