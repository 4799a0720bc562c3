"""`latent-pmrf batch` as it is typed, against a real server: kills, restarts, bad photos, exit statuses."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from loadtest.process import held_port
from service.cli import main
from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import command, environment, only_these, service_process, spawn, until

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
ALIGNED = ("--aligned", "--output-format", "png")
MANY = 200  # who looks every now and then sees a batch of so many in the middle, on any machine


@pytest.fixture(scope="module")
def running(arithmetic_bundle, tmp_path_factory):
    with service_process(arithmetic_bundle, tmp_path_factory.mktemp("log") / "service.log", grpc_port=-1) as service:
        yield service


@pytest.fixture
def run(running, monkeypatch, capsys, tmp_path):
    """Run the command in this process; returns exit status, standard output and standard error."""
    only_these(monkeypatch)

    def run(*arguments, source="in", target="out", server=None):
        given = ("batch", tmp_path / source, tmp_path / target, "--server", server or running.rpc_address, *arguments)
        return main([str(argument) for argument in given]), *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path):
    """Makes photos numbered from 0, every third in a folder below."""

    def make(count, begin=0):
        for number in range(begin, count):
            path = tmp_path / "in" / ("sub" if number % 3 == 0 else ".") / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbered(number))
        return tmp_path / "in"

    return make


def results(tmp_path):
    """Numbers in the results by the number in the name; nothing else may lie there but the journal."""
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix != ".png"] == [".latent-pmrf-batch.jsonl"]
    pictures = {int(path.stem): path.read_bytes() for path in files if path.suffix == ".png"}
    assert all(is_restored(picture) for picture in pictures.values())
    return {name: number_of(picture) for name, picture in pictures.items()}


def test_a_folder_keeps_its_tree(run, folder, tmp_path):
    folder(7)
    status, _, told = run(*ALIGNED, "--seed", "3", "--window", "2")
    assert (status, results(tmp_path)) == (OK, {number: number for number in range(7)})
    assert (tmp_path / "out" / "sub" / "00003.png").is_file()
    assert "7 restored, 0 failed, in " in told


def test_run_again_it_does_what_is_left(run, folder, tmp_path):
    folder(4)
    assert run(*ALIGNED)[0] == OK
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    folder(6, begin=4)
    os.utime(tmp_path / "in" / "00001.png", ns=(0, 0))
    (tmp_path / "out" / "00002.png").unlink()
    status, _, told = run(*ALIGNED)
    assert status == OK
    assert "4 restored, 0 failed, 2 restored before" in told  # two new ones, a changed one, a lost result
    assert (tmp_path / "out" / "sub" / "00003.png").stat().st_mtime_ns == times[tmp_path / "out" / "sub" / "00003.png"]
    assert results(tmp_path) == {number: number for number in range(6)}


def test_bad_photos_do_not_stop_the_others(run, folder, tmp_path):
    folder(3)
    (tmp_path / "in" / "text.jpg").write_text("hello")
    (tmp_path / "in" / "empty.png").touch()
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "cut.png").write_bytes(numbered(1)[:60])
    status, out, told = run(*ALIGNED, "--report", "-")
    assert status == FAILED
    assert results(tmp_path) == {0: 0, 1: 1, 2: 2}
    entries = {entry["name"]: entry for entry in map(json.loads, out.splitlines())}
    codes = {name: entry["error"]["code"] for name, entry in entries.items() if entry["status"] == "failed"}
    hopeless = {"text.jpg": "unsupported_format", "empty.png": "empty_upload", "cut.png": "corrupt_image"}
    assert codes == {**hopeless, "nowhere.png": "unreadable"}
    assert entries["sub/00000.png"]["report"]["faces"][0]["status"] == "restored"
    assert "text.jpg: The file format is not supported" in told
    status, _, told = run(*ALIGNED)
    assert status == FAILED
    assert "0 restored, 1 failed, 3 restored before, 3 failed before" in told
    assert "4 failed, 3 restored before, in " in run(*ALIGNED, "--retry-failed")[2]


def test_a_file_that_cannot_be_read_is_tried_again(run, folder, tmp_path):
    folder(2)
    unreadable = tmp_path / "in" / "00001.png"
    content = unreadable.read_bytes()
    unreadable.unlink()
    os.mkfifo(unreadable)
    assert run(*ALIGNED)[0] == OK  # it is no file
    unreadable.unlink()
    unreadable.write_bytes(content)
    status, _, told = run(*ALIGNED)
    assert (status, results(tmp_path)) == (OK, {0: 0, 1: 1})
    assert "1 restored, 0 failed, 1 restored before" in told


def test_a_link_that_cannot_be_followed_fails_alone_and_is_tried_again(run, folder, tmp_path):
    folder(2)
    (tmp_path / "in" / "circle.png").symlink_to("circle.png")
    for restored in ("2 restored, 1 failed, in ", "0 restored, 1 failed, 2 restored before"):
        status, _, told = run(*ALIGNED)
        assert status == FAILED
        assert "circle.png: The file is not read" in told
        assert restored in told
    (tmp_path / "in" / "circle.png").unlink()
    (tmp_path / "in" / "circle.png").write_bytes(numbered(2))
    assert "1 restored, 0 failed, 2 restored before" in run(*ALIGNED)[2]


def test_a_result_that_cannot_be_written_is_tried_again(run, folder, tmp_path):
    folder(2)
    (tmp_path / "out" / "00001.png" / "in the way").mkdir(parents=True)
    status, _, told = run(*ALIGNED)
    assert status == FAILED
    assert "The result is not written" in told
    (tmp_path / "out" / "00001.png" / "in the way").rmdir()
    (tmp_path / "out" / "00001.png").rmdir()
    status, _, told = run(*ALIGNED)
    assert (status, results(tmp_path)) == (OK, {0: 0, 1: 1})
    assert "1 restored, 0 failed, 1 restored before" in told


def test_other_options_need_another_folder_or_a_new_beginning(run, folder, tmp_path):
    folder(2)
    assert run(*ALIGNED, "--fidelity", "0.5")[0] == OK
    status, _, told = run(*ALIGNED, "--fidelity", "1")
    assert status == USAGE
    assert "fidelity=0.5" in told
    assert "--fresh" in told
    status, _, told = run(*ALIGNED, "--fidelity", "1", "--fresh")
    assert status == OK
    assert "2 restored, 0 failed, in" in told


def test_photos_of_another_folder_do_not_take_the_places_of_results(run, folder, tmp_path):
    folder(2)
    assert run(*ALIGNED)[0] == OK
    before = results(tmp_path)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("elsewhere")
    status, _, told = run(*ALIGNED, source="elsewhere")
    assert status == USAGE
    assert f"has the results of {tmp_path / 'in'}, not of {tmp_path / 'elsewhere'}" in told
    assert results(tmp_path) == before
    assert "2 restored before" in run(*ALIGNED, "--moved", source="elsewhere")[2]
    assert "2 restored before" in run(*ALIGNED, source="link")[2]


def test_wrong_usage_is_told_before_any_work(run, folder, tmp_path, monkeypatch):
    folder(1)
    assert run(source="missing")[0] == USAGE
    assert run("--fidelity", "2")[0] == USAGE
    assert run("--num-steps", "9")[0] == USAGE  # the bundle allows 8
    assert run(target="in")[0] == USAGE
    assert run(target=".")[0] == USAGE
    assert run(server="localhost")[0] == USAGE
    assert run(server="http://127.0.0.1:50051")[0] == USAGE
    assert run("--report", tmp_path / "nowhere" / "report.jsonl")[0] == USAGE
    assert run("--report", tmp_path / "in")[0] == USAGE
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
        assert run("--report", tmp_path / "report.jsonl")[0] == USAGE
    (tmp_path / "precious.txt").write_text("not a journal")
    assert run("--journal", tmp_path / "precious.txt", "--fresh")[0] == USAGE
    assert (tmp_path / "precious.txt").read_text() == "not a journal"
    (tmp_path / "empty").mkdir()
    assert run(source="empty")[0] == USAGE


def test_a_server_that_is_not_there(run, folder, tmp_path):
    folder(1)
    status, _, told = run("--attempts", "2", server="127.0.0.1:9")
    assert status == UNREACHABLE
    assert "The server cannot be reached" in told
    assert not (tmp_path / "out").exists()


def start(tmp_path, bundle, address, *arguments):
    given = command("batch", str(tmp_path / "in"), str(tmp_path / "out"), "--server", address, *ALIGNED, *arguments)
    return spawn(given, environment(bundle), tmp_path / "batch.log")


def journal_lines(tmp_path):
    path = tmp_path / "out" / ".latent-pmrf-batch.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_client_that_ends_in_the_middle_goes_on_where_it_was(
    run, folder, running, arithmetic_bundle, tmp_path, number
):
    folder(MANY)
    child = start(tmp_path, arithmetic_bundle, running.rpc_address, "--window", "2", "--report", str(tmp_path / "r"))
    until(lambda: journal_lines(tmp_path) > 5)
    child.send_signal(number)
    assert child.wait(60) == (-signal.SIGKILL if number is signal.SIGKILL else INTERRUPTED)
    done = journal_lines(tmp_path) - 1
    assert 5 <= done < MANY
    if number is not signal.SIGKILL:
        assert "interrupted" in (tmp_path / "batch.log").read_text()
        assert len((tmp_path / "r").read_text().splitlines()) == done
    status, _, told = run(*ALIGNED)
    assert (status, results(tmp_path)) == (OK, {number: number for number in range(MANY)})
    assert f"{MANY - done} restored, 0 failed, {done} restored before" in told


def test_two_batches_do_not_write_into_one_folder(run, folder, running, arithmetic_bundle, tmp_path):
    folder(MANY)
    child = start(tmp_path, arithmetic_bundle, running.rpc_address, "--window", "1")
    try:
        until(lambda: journal_lines(tmp_path) > 1)
        status, _, told = run(*ALIGNED)
        assert status == USAGE
        assert "in use" in told
    finally:
        child.terminate()
        child.wait(60)


def test_a_server_that_is_killed_and_one_that_is_shut_down_in_the_middle(folder, arithmetic_bundle, tmp_path):
    folder(MANY)
    with held_port() as port:
        with service_process(arithmetic_bundle, tmp_path / "first.log", grpc_port=port) as first:
            child = start(tmp_path, arithmetic_bundle, first.rpc_address, "--window", "3", "--attempts", "30")
            until(lambda: journal_lines(tmp_path) > 5)
            first.kill()
        with service_process(arithmetic_bundle, tmp_path / "second.log", grpc_port=port) as second:
            until(lambda: journal_lines(tmp_path) > 12)
            second.child.terminate()
            second.child.wait(60)
            assert journal_lines(tmp_path) < MANY
            assert child.poll() is None
        with service_process(arithmetic_bundle, tmp_path / "third.log", grpc_port=port):
            assert child.wait(100) == OK
    assert results(tmp_path) == {number: number for number in range(MANY)}
    assert f"{MANY} restored, 0 failed, in " in (tmp_path / "batch.log").read_text()


def test_a_server_that_stays_away(run, folder, arithmetic_bundle, tmp_path):
    folder(MANY)
    with service_process(arithmetic_bundle, tmp_path / "first.log", grpc_port=-1) as first:
        child = start(tmp_path, arithmetic_bundle, first.rpc_address, "--window", "2", "--attempts", "2")
        until(lambda: journal_lines(tmp_path) > 3)
        first.kill()
        assert child.wait(60) == UNREACHABLE
    told = (tmp_path / "batch.log").read_text()
    assert "not begun or not finished" in told
    assert "The server cannot be reached" in told
    status, _, _ = run(*ALIGNED)
    assert (status, results(tmp_path)) == (OK, {number: number for number in range(MANY)})


def test_help_names_what_it_does(run):
    done = subprocess.run(command("batch", "--help"), capture_output=True, text=True, check=True)
    assert "--server HOST:PORT" in done.stdout
    assert "--fidelity" in done.stdout
