import numpy as np
import pytest
import tritonclient.grpc as triton

from export.half import to_half
from export.variants import load_original, publish, staged
from latent_pmrf.evaluation.bundle import onnxruntime_session
from tests.processes import until
from tests.triton_servers import TritonServer, copy_repository, only_models, require_triton

pytestmark = pytest.mark.timeout(300)


def test_a_real_triton_serves_a_float16_bundle_by_its_configurations(exported, tmp_path):
    require_triton()
    original = load_original(exported[1], lambda _line: None)
    files = {name: to_half(content, "float16") for name, content in original.files.items()}
    record = {"products": "float16"}
    with staged(original, tmp_path / "bundle", files, "model.onnx", record) as staging:
        publish(staging, tmp_path / "bundle", record, original, lambda _line: None)
    repository = copy_repository(tmp_path / "bundle", tmp_path / "repository")
    latent = np.random.default_rng(0).standard_normal((2, 4, 24, 24), dtype=np.float32)
    with (
        TritonServer(repository, tmp_path, only_models("vae_decoder")) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client,
    ):

        def ready():
            try:
                return client.is_model_ready("vae_decoder")
            except triton.InferenceServerException:
                return False

        until(ready)
        sent = triton.InferInput("latent", list(latent.shape), "FP32")
        sent.set_data_from_numpy(latent)
        image = client.infer("vae_decoder", [sent]).as_numpy("image")
    expected = onnxruntime_session(files["vae_decoder"]).run(None, {"latent": latent})[0]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1e-3)
