"""`latent-pmrf` as it is typed: real files, real networks, exit statuses and what is said."""

import errno
import json
import os
import signal
import socket
import subprocess

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from service.cli import _way_out, main
from service.core.options import option_schemas
from tests.pictures import decoded, encoded, saved
from tests.processes import ROOT, command, environment, only_these

PHOTO = saved(Image.fromarray(astronaut()).crop((60, 0, 380, 320)), "PNG")
OK, FAILED, USAGE, BAD_BUNDLE = range(4)


@pytest.fixture
def run(arithmetic_bundle, monkeypatch, capsys):
    """Run a command in this process; returns exit status, standard output and standard error."""

    def run(*arguments, **settings):
        only_these(monkeypatch, **{"model_repository": arithmetic_bundle, **settings})
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(PHOTO)
    return path


def test_a_photo_gets_a_restored_neighbour(run, photo):
    status, _, told = run("restore", photo)
    assert status == OK
    result = decoded((photo.parent / "photo_restored.png").read_bytes())
    assert result.shape == (320, 320, 3)
    assert (result != decoded(PHOTO)).any()
    assert "photo_restored.png (faces: 1, " in told
    assert "1 restored, 0 failed" in told
    assert photo.read_bytes() == PHOTO


def test_a_file_that_is_there_is_replaced_when_that_is_asked_for(run, photo, tmp_path):
    there = tmp_path / "other.png"
    there.write_bytes(encoded())
    status, _, told = run("restore", photo, there)
    assert (status, there.read_bytes()) == (USAGE, encoded())
    assert "other.png exists" in told
    assert run("restore", photo, there, "--overwrite")[0] == OK
    assert decoded(there.read_bytes()).shape == (320, 320, 3)


def test_options_have_the_names_of_the_interface(run, photo, tmp_path):
    status, _, _ = run(
        "restore",
        photo,
        tmp_path / "out.webp",
        "--upscale",
        "1.5",
        "--num-steps",
        "1",
        "--seed",
        "4",
        "--quality",
        "70",
    )
    assert status == OK
    assert decoded((tmp_path / "out.webp").read_bytes()).shape == (480, 480, 3)


def test_a_folder_with_bad_files(run, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("hello, this is a text")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "wall.png").write_bytes(encoded())
    status, out, told = run("restore", tmp_path, tmp_path / "restored", "--json", "-")
    assert status == FAILED
    entries = {os.path.basename(entry["source"]): entry for entry in json.loads(out)}
    assert entries["photo.png"]["report"]["faces"][0]["status"] == "restored"
    assert entries["text.jpg"]["error"]["code"] == "unsupported_format"
    assert entries["wall.png"]["error"]["code"] == "no_face_found"
    assert "text.jpg: The file format is not supported" in told
    assert "1 restored, 2 failed" in told
    assert [path.name for path in (tmp_path / "restored").rglob("*.*")] == ["photo.png"]


def test_a_photo_without_a_face_when_that_is_allowed(run, tmp_path):
    (tmp_path / "wall.png").write_bytes(encoded())
    assert run("restore", tmp_path / "wall.png", "--faces", "any")[0] == OK
    np.testing.assert_array_equal(decoded((tmp_path / "wall_restored.png").read_bytes()), decoded(encoded()))


def test_a_report_in_a_file(run, photo, tmp_path):
    assert run("restore", photo, "--json", tmp_path / "report.json", "--seed", "5")[0] == OK
    (entry,) = json.loads((tmp_path / "report.json").read_text())
    assert entry["report"]["seed"] == 5


@pytest.mark.parametrize("place", ["nowhere/report.json", "folder"])
def test_a_place_that_is_none_for_a_report_is_refused_before_any_work(run, photo, tmp_path, place):
    (tmp_path / "folder").mkdir()
    status, _, told = run("restore", photo, "--json", tmp_path / place)
    assert status == USAGE
    assert place.partition("/")[0] in told
    assert "restored," not in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fidelity", "2"], "fidelity"),
        (["--num-steps", "9"], "num_steps"),
        (["--output-format", "gif"], "output_format"),
        (["--max-faces", "65"], "max_faces"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(run, photo, arguments, named):
    status, _, told = run("restore", photo, *arguments)
    assert status == USAGE
    assert told.startswith(f"latent-pmrf: {named}=")
    assert not (photo.parent / "photo_restored.png").exists()


def test_a_source_that_is_not_there(run, tmp_path):
    status, _, told = run("restore", tmp_path / "nothing.jpg")
    assert status == USAGE
    assert "does not exist" in told


def test_settings_that_are_wrong(run, photo):
    status, _, told = run("restore", photo, max_face="3")
    assert status == USAGE
    assert "LATENT_PMRF_MAX_FACE" in told
    status, _, told = run("serve", slots="none")
    assert status == USAGE
    assert "LATENT_PMRF_SLOTS" in told


@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["restore", "photo.png"]])
@pytest.mark.parametrize("defect", ["empty", "altered", "no detector"])
def test_a_bad_bundle_is_a_refusal_to_start(run, arithmetic_bundle, tmp_path, photo, arguments, defect):
    broken = tmp_path / "bundle"
    broken.mkdir()
    if defect != "empty":
        for file in arithmetic_bundle.rglob("*.*"):
            if defect == "no detector" and "detector" in file.parts:
                continue
            copy = broken / file.relative_to(arithmetic_bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes() + (b"x" if defect == "altered" and "velocity" in file.parts else b""))
    given = [str(photo) if argument == "photo.png" else argument for argument in arguments]
    status, _, told = run(*given, model_repository=broken)
    assert status == BAD_BUNDLE
    named = {"empty": "manifest.json", "altered": "networks.velocity.sha256", "no detector": "detector"}[defect]
    assert named in told
    assert "Traceback" not in told


def test_an_address_that_cannot_be_had(run):
    for arguments in (["--port", "70000"], ["--host", "203.0.113.7"], ["--host", "no such host"]):
        status, _, told = run("serve", *arguments)
        assert status == FAILED
        assert "cannot listen on" in told


def test_a_port_that_is_taken_or_reserved_says_what_to_do(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, told = run("serve", "--port", taken.getsockname()[1])
    assert status == FAILED
    assert "Is it running already? --port, or `make serve PORT=`, chooses another" in told
    reserved = PermissionError(errno.EACCES, "Permission denied")
    assert _way_out(reserved, "worker") == ". Ports below 1024 need root; --metrics-port chooses another"
    assert _way_out(OverflowError("port must be 0-65535"), "serve") == ""


@pytest.mark.parametrize(
    "arguments", [[], ["destroy"], ["restore"], ["restore", "a.jpg", "--fidelty", "1"], ["serve", "x"]]
)
def test_wrong_usage(run, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == USAGE
    assert "usage: latent-pmrf" in capsys.readouterr().err


def test_help_names_every_option_and_default(run, capsys):
    for arguments, words in (
        (["--help"], ["serve", "gateway", "worker", "restore"]),
        (["restore", "--help"], [f"--{name.replace('_', '-')}" for name in option_schemas()]),
        (["serve", "--help"], ["--host", "--port", "127.0.0.1", "8000"]),
        (["gateway", "--help"], ["--host", "--port", "127.0.0.1", "8000", "LATENT_PMRF_REDIS_URL"]),
        (["worker", "--help"], ["--host", "--metrics-port", "127.0.0.1", "8001", "LATENT_PMRF_REDIS_URL"]),
    ):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert [word for word in words if word not in shown] == []


@pytest.fixture
def interruptible():
    """A child of a background job would ignore SIGINT, as its shell told the job to."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_a_run_that_is_interrupted_leaves_no_half_picture(arithmetic_bundle, tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(PHOTO)
    target = tmp_path / "out"
    child = subprocess.Popen(
        command("restore", str(tmp_path), str(target)),
        cwd=ROOT,
        env=environment(arithmetic_bundle),
        stderr=subprocess.PIPE,
        text=True,
    )
    first = child.stderr.readline()
    child.send_signal(signal.SIGINT)
    told = first + child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert "interrupted" in told
    assert "not begun or not finished" in told
    assert "Traceback" not in told
    results = list(target.iterdir())
    assert 1 <= len(results) < 40
    assert all(decoded(path.read_bytes()).shape == (320, 320, 3) for path in results)
