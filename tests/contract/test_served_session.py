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

SPINNING = ("session.intra_op.allow_spinning", "session.intra_op.spin_duration_us", "session.force_spinning_stop")
SHARED_ARENA = "session.use_env_allocators"
SIZE_PX = 32


def plain(options):
    """What can be read of an onnxruntime session's options."""
    names = [name for name in dir(options) if not name.startswith("_")]
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def spinning_of(options):
    found = []
    for name in SPINNING:
        try:
            found.append(options.get_session_config_entry(name))
        except RuntimeError:  # there is no such entry
            found.append(None)
    return found


@pytest.mark.parametrize(("spinning", "expected"), [(False, ["0", None, None]), (True, ["1", "200", "1"])])
def test_the_bench_runs_networks_as_the_service_does(spinning, expected):
    served, measured = session_options(3, spinning=spinning), served_options(3, spinning=spinning)
    assert plain(measured) == plain(served)
    assert spinning_of(measured) == spinning_of(served) == expected
    assert [options.get_session_config_entry(SHARED_ARENA) for options in (measured, served)] == ["1", "1"]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_shared_out_are_those_of_one_call(threads, rows):
    feeds = {"x": np.random.default_rng(rows).random((rows, SIDE), np.float32)}
    together = onnxruntime.InferenceSession(residual(), served_options(1)).run(None, feeds)
    session = ServedSession(residual(), threads)
    assert [each.name for each in session.get_inputs()] == ["x"]
    np.testing.assert_array_equal(session.run(None, feeds)[0], together[0])


def drawn(session, rows):
    """An input of so many rows for each that the session takes."""
    rng = np.random.default_rng(0)
    return {value.name: rng.random((rows, *value.shape[1:]), np.float32) for value in session.get_inputs()}


@pytest.mark.parametrize(("network", "spinning"), [("estimator", "0"), ("velocity", "1")])
async def test_the_bench_shares_rows_out_as_the_service_does(tmp_path, monkeypatch, network, spinning):
    """Both call as many sessions, with the same rows; single rows of the velocity spin, and nothing else."""
    write_bundle(tmp_path, SIZE_PX, max_batch_size=8)
    backend = OrtBackend(load_manifest(tmp_path), tmp_path, 2, metrics=Metrics(), only=(network,))
    session = ServedSession((tmp_path / network / "1" / "model.onnx").read_bytes(), 2)
    seen, run = [], onnxruntime.InferenceSession.run

    def noted(self, names, feeds):
        options = self.get_session_options()
        rows = len(next(iter(feeds.values())))
        seen.append((options.intra_op_num_threads, rows, options.get_session_config_entry(SPINNING[0])))
        return run(self, names, feeds)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", noted)
    for rows in (1, 2, 5):
        inputs = drawn(session, rows)
        await backend.infer(network, inputs)
        served, seen[:] = sorted(seen), []
        session.run(None, inputs)
        assert sorted(seen) == served
        assert {spins for _, _, spins in served} == {spinning if rows == 1 else "0"}
        seen.clear()
    await backend.close()
