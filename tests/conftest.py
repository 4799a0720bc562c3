"""What every test shares: skips where a machine is missing, one profile for generated examples, its own logging."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

# Before PyTorch is loaded: threads that wait for each other at every small operation crawl where cores are shared with
# other test processes and servers under test.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before gRPC is loaded: once a channel of an earlier test has left its poller in this process, its handlers at a fork
# hang or break the workers of PyTorch's loader, which have no use for it.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# No photo is refused because the machine is slow today; what is refused when has tests with a clock of their own.
os.environ.setdefault("LATENT_PMRF_LATENCY_OBJECTIVE_S", "3600")

# Started in the background of a shell, this process ignores Ctrl-C, and so would every process under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing may depend on how fast a machine is, nor on what else it does.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_browser() -> bool:
    return shutil.which("chromedriver") is not None and any(map(shutil.which, ("chromium", "google-chrome", "chrome")))


_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "gpu": (_has_gpu, "needs a CUDA device"),
    "browser": (_has_browser, "needs chromedriver and Chromium or Chrome on the PATH"),
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what is imported and collected here and stays to the end.

    It went through these 800 000 objects again and again: a quarter of the time of the collection and of an export.
    What an export makes, and holds for a while, is as much again: the collector looks less often.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Two processes more than there are cores: for half of its time a test waits for a start, a lease or a clock."""
    cores = yield
    return cores + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by marker, with the reason in the summary, never by an `if` inside a test; files of slow tests come first.

    A worker that is given a long file last keeps everybody waiting for it.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for marker, (available, reason) in _NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that serves takes the process's log for itself; the next test is another process's."""
    root, ours = logging.getLogger(), logging.getLogger("service")
    handlers, levels, hooks = root.handlers[:], (root.level, ours.level), (sys.excepthook, threading.excepthook)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """A comparison of runtimes leaves PyTorch with threads of its own; the tests after it took six times as long."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training run of tiny networks and the bundle that `export.cli bundle` made of it; to be left as it is.

    Every worker of a run is given the same: whoever asks first makes it.
    """
    from export.cli import main
    from tests.tiny_runs import SIDE_PX, write_runs

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    folder.mkdir(exist_ok=True)
    runs, repository, made = folder / "runs", folder / "model_repository", folder / "made"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            write_runs(runs, steps_done=30)
            arguments = ["bundle", "--runs", str(runs), "--model-repository", str(repository), "--num-steps", "3"]
            arguments += ["--fidelity", "0.25", "--name", "tiny", "--bundle-version", "7"]
            assert main([*arguments, "--image-size-px", str(SIDE_PX)]) == 0
            made.touch()
    return runs, repository
