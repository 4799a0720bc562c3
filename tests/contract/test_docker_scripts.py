"""`docker/*.sh` and the image that builds engines: scripts are run with a `docker` that only writes down its calls."""

import os
import re
import subprocess

import pytest

from tests.images import DOCKER, is_in_context, read_dockerfile, read_image
from tests.processes import ROOT

PINNED = re.compile(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}")
FAKE_DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$@" >> "$ARGUMENTS"
if [[ $1 == buildx ]]; then echo "sha256:$(printf %064d 7)"; fi
"""


@pytest.fixture
def docker(tmp_path):
    """A `docker` that only writes down how it was called; returns the environment to call scripts with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(FAKE_DOCKER)
    (folder / "docker").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "ARGUMENTS": str(tmp_path / "arguments")}


def run_script(name, environment, *arguments, cwd=ROOT):
    return subprocess.run(
        [cwd / "docker" / name, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=cwd
    )


def words_of(text):
    """The calls of a `docker` that only writes them down, each a list."""
    calls = [[]]
    for word in text.splitlines():
        if word in {"build", "run"}:
            calls.append([])
        calls[-1].append(word)
    return calls[1:]


def test_engines_are_built_inside_the_triton_image_that_will_load_them(docker, tmp_path):
    environment = docker | {"TIMING_CACHE": str(tmp_path / "cache")}
    done = run_script("export.sh", environment, str(tmp_path / "engines"), "--precision", "bfloat16")
    assert done.returncode == 0, done.stderr
    build, run = words_of((tmp_path / "arguments").read_text())
    image = read_image("triton")[-1].base
    assert [stage.base for stage in read_dockerfile(DOCKER / "engines.Dockerfile")] == [image]
    assert build[build.index("--build-arg") + 1] == f"TRITON_IMAGE={image}"
    assert build[build.index("--file") + 1] == str(DOCKER / "engines.Dockerfile")
    assert build[-1] == str(ROOT)
    built = build[build.index("--tag") + 1]
    assert run[run.index(built) + 1 :][-2:] == ["--precision", "bfloat16"]
    assert run[run.index("--gpus") + 1] == "all"
    assert run[run.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"  # whose the engines will be
    mounts = [run[place + 1] for place, word in enumerate(run) if word == "--volume"]
    assert sorted(mounts) == sorted(
        [f"{ROOT}/model_repository:/bundle:ro", f"{tmp_path}/engines:/target", f"{tmp_path}/cache:/cache"]
    )


def test_engines_come_with_their_detector_though_the_bundle_has_none(docker, tmp_path):
    """Triton does not start without it, and a fresh clone has not fetched it; the image has."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "manifest.json").write_text("{}")
    assert run_script("export.sh", docker | {"TIMING_CACHE": str(tmp_path)}, str(tmp_path / "engines")).returncode == 0
    *_, last = words_of((tmp_path / "arguments").read_text())
    assert last[last.index("--entrypoint") + 1] == "install"
    assert last[-2:] == [f"{folder}/detector/1/model.onnx" for folder in ("/models", "/target")]
    assert "export.detector --model-repository /models" in engine_commands()


@pytest.mark.timeout(300)  # imports torch
def test_the_image_that_builds_engines_begins_with_the_export_s_command(docker, tmp_path, capsys):
    from export.cli import main as export

    (image,) = read_dockerfile(DOCKER / "engines.Dockerfile")
    assert image.last("ENTRYPOINT").words[1:] == ["-m", "export.cli", "tensorrt"]
    run_script("export.sh", docker | {"TIMING_CACHE": str(tmp_path)}, str(tmp_path / "engines"), "--level", "5")
    *_, run = words_of((tmp_path / "arguments").read_text())
    with pytest.raises(SystemExit) as stopped:
        export(["tensorrt", *run[run.index("latent-pmrf-engines") + 1 :], "--help"])
    assert stopped.value.code == 0
    assert "--timing-cache" in capsys.readouterr().out


def engine_commands():
    return " ".join(run.rest for run in read_dockerfile(DOCKER / "engines.Dockerfile")[0].all("RUN"))


def test_engines_are_built_in_an_environment_of_their_own():
    (image,) = read_dockerfile(DOCKER / "engines.Dockerfile")
    commands = engine_commands()
    installed = re.findall(r"(\S+) -m pip( --python \S+)? install", commands)
    place = image.last("ENTRYPOINT").words[0]
    assert installed[0] == ("python3", f" --python {place}")
    assert {python for python, _ in installed[1:]} == {place}
    assert "break-system-packages" not in commands
    assert image.last("USER").rest == read_image("triton")[-1].last("USER").rest  # who reads them
    for copy in image.all("COPY"):
        assert all((ROOT / source).exists() and is_in_context(source) for source in copy.words[:-1])


@pytest.mark.parametrize("arguments", [(), ("--precision", "float16")])
def test_without_a_target_the_script_says_how_it_is_called(docker, arguments):
    done = run_script("export.sh", docker, *arguments)
    assert done.returncode == 2
    assert "docker/export.sh TARGET" in done.stderr


def test_pinning_writes_every_image_of_the_compose_files(docker, tmp_path):
    (tmp_path / "docker").mkdir()
    script = tmp_path / "docker" / "pin.sh"
    script.write_text((DOCKER / "pin.sh").read_text())
    script.chmod(0o755)
    done = run_script("pin.sh", docker, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pinned = dict(line.split("=", 1) for line in (tmp_path / "docker" / ".env").read_text().splitlines())
    text = "".join(path.read_text() for path in sorted(DOCKER.glob("compose*.yaml")))
    assert set(pinned) == set(re.findall(r"\$\{(\w+_IMAGE):-", text))
    assert all(PINNED.fullmatch(image) for image in pinned.values())
    written = {name: image.partition("@")[0] for name, image in pinned.items()}
    assert written == {name: image.partition("@")[0] for name, image in re.findall(r"\$\{(\w+_IMAGE):-([^}]*)\}", text)}
