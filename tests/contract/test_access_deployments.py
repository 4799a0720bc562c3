"""Keys where the service is deployed: compose and Kubernetes mount the file as the service reads it."""

import pytest

from service.core.settings import ENV_PREFIX
from tests.images import read_compose
from tests.kubernetes import FOLDER, OVERLAYS, container_of, of_kind, pod_of, variables_of

COMPOSE = ("compose.yaml", "compose.keys.yaml")


def test_compose_mounts_a_folder_that_nobody_writes_to():
    variables = {"GRAFANA_PASSWORD": "secret", "KEYS_FOLDER": "/keys"}
    gateway = read_compose(*COMPOSE, variables=variables)["services"]["gateway"]
    (volume,) = gateway["volumes"]
    source, target, mode = volume.split(":")
    assert (source, mode) == ("/keys", "ro")
    assert gateway["environment"][f"{ENV_PREFIX}API_KEYS_FILE"] == f"{target}/keys.json"


def test_compose_wants_to_be_told_the_folder():
    with pytest.raises(KeyError, match="KEYS_FOLDER"):
        read_compose(*COMPOSE, variables={"GRAFANA_PASSWORD": "secret"})


@pytest.mark.parametrize("name", OVERLAYS)
def test_on_kubernetes_they_are_a_component_that_mounts_a_secret_by_its_name(with_component, name):
    objects = with_component(name, "keys")
    deployments = of_kind(objects, "Deployment")
    gateway = deployments["latent-pmrf-gateway"]
    (volume,) = [each for each in pod_of(gateway)["volumes"] if "secret" in each]
    (mount,) = [each for each in container_of(gateway)["volumeMounts"] if each["name"] == volume["name"]]
    variables = variables_of(gateway, objects)
    assert volume["secret"]["secretName"] == "latent-pmrf-keys"
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # or a change would never arrive
    assert variables[f"{ENV_PREFIX}API_KEYS_FILE"] == f"{mount['mountPath']}/keys.json"
    assert f"{ENV_PREFIX}REDIS_URL" in variables
    assert "tmp" in {each["name"] for each in pod_of(gateway)["volumes"]}
    assert all("secret" not in each for each in pod_of(deployments["latent-pmrf-worker"])["volumes"])


def test_the_documentation_makes_that_secret():
    text = (FOLDER.parent / "docs" / "OPERATIONS.md").read_text().partition("## Kubernetes")[2]
    assert "create secret generic latent-pmrf-keys --from-file=keys.json" in text
