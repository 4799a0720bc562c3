import numpy as np
import onnxruntime
import pytest

from export.parity import served_options
from export.served_session import ServedSession
from service.backends.ort_session import OrtBackend, session_options
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.bundle import write_bundle
from tests.small_graphs import SIDE, residual

SPINNING = "session.intra_op.allow_spinning"
SIZE_PX = 32


def plain(options):
    """What can be read of an onnxruntime session's options."""
    names = [name for name in dir(options) if not name.startswith("_")]
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def test_the_bench_runs_networks_as_the_service_does():
    served, measured = session_options(3, one_size=True), served_options(3)
    assert plain(measured) == plain(served)
    assert measured.get_session_config_entry(SPINNING) == served.get_session_config_entry(SPINNING) == "0"


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_shared_out_are_those_of_one_call(threads, rows):
    feeds = {"x": np.random.default_rng(rows).random((rows, SIDE), np.float32)}
    together = onnxruntime.InferenceSession(residual(), served_options(1)).run(None, feeds)
    session = ServedSession(residual(), threads)
    assert [each.name for each in session.get_inputs()] == ["x"]
    np.testing.assert_array_equal(session.run(None, feeds)[0], together[0])


async def test_the_bench_shares_rows_out_as_the_service_does(tmp_path, monkeypatch):
    """Both call as many sessions, with the same rows."""
    write_bundle(tmp_path, SIZE_PX, max_batch_size=8)
    image = np.random.default_rng(0).random((5, 3, SIZE_PX, SIZE_PX), np.float32)
    backend = OrtBackend(load_manifest(tmp_path), tmp_path, 2, metrics=Metrics(), only=("estimator",))
    session = ServedSession((tmp_path / "estimator/1/model.onnx").read_bytes(), 2)
    seen, run = [], onnxruntime.InferenceSession.run

    def noted(self, names, feeds):
        threads = self.get_session_options().intra_op_num_threads
        seen.append((threads, len(feeds["image"])))
        return run(self, names, feeds)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", noted)
    for rows in (1, 2, 5):
        await backend.infer("estimator", {"image": image[:rows]})
        served, seen[:] = sorted(seen), []
        session.run(None, {"image": image[:rows]})
        assert sorted(seen) == served
        seen.clear()
    await backend.close()
