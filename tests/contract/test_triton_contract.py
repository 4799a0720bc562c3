"""`export` writes Triton's configurations, the service reads them back from a server: both mean the same."""

import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export import triton_config
from service.backends import triton_contract
from service.core.errors import ManifestMismatch
from service.core.manifest import load_manifest
from tests.bundle import tiny_manifest
from tests.running_bundle import write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


def configs_of(manifest):
    files = triton_config.configurations(manifest)
    return {path: text_format.Parse(text, ModelConfig()) for path, text in files.items()}


def checked(network, config):
    triton_contract.check_config(network, config)


def test_both_name_the_hash_alike():
    assert triton_contract.SHA256_PARAMETER == triton_config.SHA256_PARAMETER


def test_the_service_accepts_every_configuration_that_export_writes(bundle):
    networks = triton_contract.networks_of(load_manifest(bundle), None)
    configs = configs_of(json.loads((bundle / "manifest.json").read_text()))
    for path, config in configs.items():
        checked(networks[path.partition("/")[0]], config)
    assert {config.name for config in configs.values()} == set(networks)


def test_the_networks_of_a_process_are_those_it_calls():
    manifest = tiny_manifest()
    assert set(triton_contract.networks_of(manifest, ["detector"])) == {"detector"}
    assert set(triton_contract.networks_of(manifest, manifest.networks)) == set(manifest.networks)


def test_tensors_in_another_order_are_the_same_tensors(bundle):
    network = triton_contract.networks_of(load_manifest(bundle), None)["velocity"]
    config = configs_of(json.loads((bundle / "manifest.json").read_text()))["velocity/config.pbtxt"]
    tensors = list(reversed(config.input))
    del config.input[:]
    config.input.extend(tensors)
    checked(network, config)


def without_an_input(config):
    del config.input[0]


def of_half_precision(config):
    config.input[1].data_type = 10


def of_another_shape(config):
    config.output[0].dims[2] = 9


def of_other_batches(config):
    config.max_batch_size = 0


def of_another_file(config):
    config.parameters["latent_pmrf.sha256"].string_value = "0" * 64


def of_an_unknown_file(config):
    del config.parameters["latent_pmrf.sha256"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_an_input, r"networks\.velocity\.inputs: the server has \['t'\], the manifest \['t', 'x_t'\]"),
        (of_half_precision, r"networks\.velocity\.inputs\[1\]\.dtype: the server has float16, the manifest float32"),
        (of_another_shape, r"networks\.velocity\.outputs\[0\]\.shape: the server has \['batch', 3, 8, 9\]"),
        (of_other_batches, r"networks\.velocity\.max_batch_size: the server has 0, the manifest 4"),
        (of_another_file, r"networks\.velocity\.sha256: the server has 0000"),
        (of_an_unknown_file, r"networks\.velocity\.sha256: the server has None"),
    ],
)
def test_what_differs_is_named(bundle, change, message):
    network = triton_contract.networks_of(load_manifest(bundle), None)["velocity"]
    config = configs_of(json.loads((bundle / "manifest.json").read_text()))["velocity/config.pbtxt"]
    change(config)
    with pytest.raises(ManifestMismatch, match=message):
        checked(network, config)
