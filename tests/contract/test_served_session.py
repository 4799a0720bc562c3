from export.cpu_bench import served_session
from service.backends.ort_session import session_options
from tests.small_graphs import residual

SPINNING = "session.intra_op.allow_spinning"


def plain(options):
    """What can be read of an onnxruntime session's options."""
    names = [name for name in dir(options) if not name.startswith("_")]
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def test_the_bench_runs_networks_as_the_service_does():
    served = session_options(3, one_size=True)
    measured = served_session(residual(), 3).get_session_options()
    assert plain(measured) == plain(served)
    assert measured.get_session_config_entry(SPINNING) == served.get_session_config_entry(SPINNING) == "0"
