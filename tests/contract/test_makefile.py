"""How `make` sets an environment up: once at a time, again where it does not work, and with a word where pip fails.

A shell script stands for Python: it notes what it is asked for and makes a copy of itself of an environment.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!/bin/bash
case "$*" in
    "-m venv "*) echo venv >> "$NOTES"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip install "*)
        echo "pip, PIP_USER=$PIP_USER" >> "$NOTES"
        until [ -e "${GO:-$0}" ]; do sleep 0.05; done
        exit "${PIP_STATUS:-0}" ;;
    --version) echo "Python 3.11.0" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A checkout without an environment."""
    folder = tmp_path / "o'brien's clone"
    (folder / "service" / "rpc").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "hatch_build.py", "service/rpc/restoration.proto"):
        shutil.copy(ROOT / name, folder / name)
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return folder


def begin(clone, **environment):
    own = {"PATH": os.environ["PATH"], "NOTES": str(clone.parent / "notes"), "PIP_USER": "1", **environment}
    return subprocess.Popen(
        [shutil.which("make"), "install", f"PYTHON={clone.parent / 'python'}"],
        cwd=clone,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def made(clone, **environment):
    """Exit status, and what was said."""
    running = begin(clone, **environment)
    told, _ = running.communicate(timeout=60)
    return running.returncode, told


def noted(clone):
    """What was asked of Python since the last call."""
    notes = clone.parent / "notes"
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return lines


INSTALLED = ["venv", "pip, PIP_USER=0"]


def test_an_environment_is_set_up_once(clone):
    status, told = made(clone)
    assert (status, noted(clone)) == (0, INSTALLED)
    assert "about 0.4 GB" in told
    status, told = made(clone)
    assert (status, noted(clone)) == (0, [])
    assert "up to date" not in told


def test_of_two_at_once_one_waits_and_has_nothing_to_do(clone):
    go = clone.parent / "go"
    running = [begin(clone, GO=str(go)) for _ in range(2)]

    def read(make):
        told = []
        with make.stdout:
            for line in make.stdout:
                told.append(line)
                if line == "another make is setting up .venv; waiting\n":
                    go.touch()  # pip of the other goes on
        return told

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(read, running))
    assert [make.wait(60) for make in running] == [0, 0]
    assert noted(clone) == INSTALLED
    assert sorted("another make is setting up .venv; waiting\n" in lines for lines in told) == [False, True]


def test_a_moved_clone_gets_another(clone):
    made(clone)
    noted(clone)
    moved = clone.rename(clone.parent / "moved")
    assert made(moved)[0] == 0
    assert noted(moved) == INSTALLED
    assert made(moved)[0] == 0
    assert noted(moved) == []


def test_an_environment_whose_python_is_gone_is_made_anew(clone):
    made(clone)
    noted(clone)
    (clone / ".venv" / "bin" / "python").unlink()
    assert made(clone)[0] == 0
    assert noted(clone) == INSTALLED


def test_a_checkout_that_cannot_be_written_to_says_so(clone):
    (clone / ".venv.lock").mkdir()  # to root, too
    status, told = made(clone)
    assert status != 0
    assert f"{clone} cannot be written to" in told
    assert noted(clone) == []


def test_a_failure_of_pip_says_what_to_look_at_and_is_tried_again(clone):
    status, told = made(clone, PIP_STATUS="1")
    assert status != 0
    assert "check the network and pip's configuration" in told
    noted(clone)
    assert made(clone)[0] == 0
    assert noted(clone) == INSTALLED[1:]
