"""`latent-pmrf batch --engine ray` as it is typed, on a Ray of this machine: a kill, a bad photo, resumption."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import ROOT, command, environment, spawn, until

FAILED, USAGE, UNREACHABLE = 1, 2, 3
OPTIONS = ("--engine", "ray", "--aligned", "--output-format", "png")
BAD = os.fsdecode(b"b\xe9d.jpg")  # a name in Latin-1 is read as any other
WITHOUT_RAY = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("ray is not part of this environment")
sys.meta_path.insert(0, Refuse())
from service.cli import main
sys.exit(main(sys.argv[1:]))
"""

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install --editable '.[ray]'"
)


def photos(tmp_path, count):
    for number in range(count):
        path = tmp_path / "in" / ("sub" if number % 3 == 0 else ".") / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbered(number))


def lines(tmp_path):
    """What the journal tells of photos so far."""
    try:
        return (tmp_path / "out" / ".latent-pmrf-batch.jsonl").read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


def results(tmp_path):
    pictures = {int(path.stem): path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert all(is_restored(picture) for picture in pictures.values())
    return {name: number_of(picture) for name, picture in pictures.items()}


def workers_of(pid):
    """Processes below this one that run the networks."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray has some that end soon
            found += [one.pid] * ("FaceRestorer" in "".join(one.cmdline()[:1]))
    return found


def once(bundle, tmp_path, *options):
    """The command to its end; returns what it has ended with."""
    given = command("batch", str(tmp_path / "in"), str(tmp_path / "out"), *OPTIONS, *options)
    return subprocess.run(given, cwd=ROOT, env=environment(bundle), capture_output=True, text=True, check=False)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_of_two_workers_is_killed_and_every_photo_is_restored_once(arithmetic_bundle, tmp_path):
    photos(tmp_path, 24)
    (tmp_path / "in" / BAD).write_bytes(b"no photo")
    given = (*OPTIONS, "--workers", "2", "--window", "1", "--report", str(tmp_path / "report.jsonl"))
    batch = spawn(
        command("batch", str(tmp_path / "in"), str(tmp_path / "out"), *given),
        environment(arithmetic_bundle, inference_threads=1),
        tmp_path / "log",
    )
    try:
        until(lambda: len(lines(tmp_path)) >= 2 or batch.poll() is not None, patience_s=600)
        if batch.poll() == UNREACHABLE:
            pytest.skip(
                "Ray does not start here: its own patience with a busy machine is 30 s, and it was tried thrice"
            )
        victims = []

        def found():
            victims[:] = workers_of(batch.pid)  # none while Ray writes another title
            return victims

        until(found)
        os.kill(victims[0], signal.SIGKILL)
        assert batch.wait() == FAILED, (tmp_path / "log").read_text()
    finally:
        batch.kill()
        batch.wait()
    assert results(tmp_path) == {number: number for number in range(24)}
    entries = [json.loads(line) for line in lines(tmp_path)]
    assert set(Counter(entry["name"] for entry in entries).values()) == {1}
    assert len(entries) == 25
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    failed = {entry["name"]: entry["error"]["code"] for entry in report if entry["status"] == "failed"}
    assert failed == {BAD: "unsupported_format"}
    assert all(entry["report"]["faces"][0]["status"] == "restored" for entry in report if entry["status"] == "restored")
    assert "24 restored, 1 failed" in (tmp_path / "log").read_text()

    again = once(arithmetic_bundle, tmp_path)
    assert again.returncode == FAILED
    assert "0 restored, 0 failed, 24 restored before, 1 failed before" in again.stderr
    other = once(arithmetic_bundle, tmp_path, "--fidelity", "0.5")
    assert (other.returncode, "other options" in other.stderr) == (USAGE, True)


def test_without_ray_the_message_says_what_to_install(arithmetic_bundle, tmp_path):
    photos(tmp_path, 1)
    given = ("batch", str(tmp_path / "in"), str(tmp_path / "out"), *OPTIONS)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *given],
        cwd=ROOT,
        env=environment(arithmetic_bundle),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "pip install --editable '.[ray]'" in done.stderr) == (USAGE, True)
    assert not (tmp_path / "out").exists()


@needs_ray
def test_wrong_usage_is_told_before_ray_starts(arithmetic_bundle, tmp_path):
    absent = once(arithmetic_bundle, tmp_path)
    assert (absent.returncode, "is no folder" in absent.stderr) == (USAGE, True)
    assert not (tmp_path / "out").exists()
