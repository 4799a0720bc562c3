import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.triton_config import config_pbtxt
from tests.running_bundle import write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def config(bundle):
    entry = json.loads((bundle / "manifest.json").read_text())["networks"]["estimator"]
    return text_format.Parse(config_pbtxt("estimator", entry), model_config_pb2.ModelConfig())
