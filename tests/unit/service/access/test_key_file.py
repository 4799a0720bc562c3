"""The keys file: read again when it has changed, never half, and never to the effect that everybody may come in."""

import json
import logging
import os
import threading

import pytest

from service.access.key_file import KeyFile, UnusableKeys, edited, read_entries
from tests.api_keys import add_key, drop_key


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def clock():
    return Clock()


def open_file(path, clock):
    return KeyFile(path, look_s=1.0, clock=clock)


def test_keys_that_come_and_go_are_noticed_within_a_second(path, clock):
    first = add_key(path)
    file = open_file(path, clock)
    second = add_key(path)
    assert file.ring.find(second) is None
    clock.now_s = 1.0
    assert file.ring.find(second) is not None
    drop_key(path, first)
    clock.now_s = 2.0
    assert file.ring.find(first) is None
    assert file.ring.find(second) is not None


def test_a_mounted_secret_that_is_exchanged_is_noticed(tmp_path, clock):
    """Kubernetes exchanges a link to a folder; the file itself may have the same size and time."""
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
    keys = {version: add_key(tmp_path / version / "keys.json") for version in ("old", "new")}
    for version in keys:
        os.utime(tmp_path / version / "keys.json", ns=(1, 1))
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "keys.json").symlink_to("data/keys.json")
    file = open_file(tmp_path / "keys.json", clock)
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "data")
    clock.now_s = 1.0
    assert file.ring.find(keys["old"]) is None
    assert file.ring.find(keys["new"]) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"keys": null}',
        '{"keys": [{}]}',
        '{"keys": [], "open": true}',
        '{"keys": [{"id": "00000000", "name": "a", "blake2b": "0"}]}',
        "\xff\xfe",
        "[" * 100_000,
        '{"keys": [{"id": 1e999, "name": {}, "blake2b": []}]}',
        None,
    ],
)
def test_a_file_that_cannot_be_used_opens_nothing_and_closes_nothing(path, clock, caplog, text):
    key = add_key(path)
    file = open_file(path, clock)
    path.unlink() if text is None else path.write_bytes(text.encode("latin-1"))
    for clock.now_s in (1.0, 2.0):
        with caplog.at_level(logging.ERROR):
            assert file.ring.find(key) is not None
        assert file.ring.find(key[:-1]) is None
    assert "the keys known before stay" in caplog.text
    path.unlink(missing_ok=True)
    later = add_key(path)
    clock.now_s = 3.0
    assert file.ring.find(key) is None
    assert file.ring.find(later) is not None


def test_a_service_does_not_start_with_a_file_that_cannot_be_used(path, clock):
    with pytest.raises(UnusableKeys, match="cannot be read"):
        open_file(path, clock)
    path.write_text('{"keys": [')
    with pytest.raises(UnusableKeys, match="Invalid JSON"):
        open_file(path, clock)


def test_what_is_wrong_is_named_by_its_place_and_not_by_its_content(path):
    secret = add_key(path)
    content = json.loads(path.read_text())
    content["keys"][0]["blake2b"] = secret
    path.write_text(json.dumps(content))
    with pytest.raises(UnusableKeys, match=r"keys\.0\.blake2b") as told:
        read_entries(path)
    assert secret not in str(told.value)
    assert told.value.__cause__ is None


def test_two_entries_with_one_id_are_named(path):
    add_key(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"keys": content["keys"] * 2}))
    with pytest.raises(UnusableKeys, match="same id"):
        read_entries(path)


def test_a_file_without_keys_lets_nobody_in(path, clock):
    drop_key(path, add_key(path))
    assert open_file(path, clock).ring.find(add_key(path.with_name("other"))) is None


def test_a_new_file_is_its_owner_s_alone_and_an_old_one_keeps_its_rights(path):
    add_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    add_key(path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_edits_at_the_same_time_lose_no_key(path):
    made = []
    threads = [threading.Thread(target=lambda: made.append(add_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_entries(path)) == len(made) == 8


def test_an_edit_that_fails_leaves_the_file_as_it_was(path):
    add_key(path)
    before = path.read_bytes()

    def fail():
        with edited(path) as entries:
            entries.clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == before
    assert {found.name for found in path.parent.iterdir()} == {"keys.json", ".keys.json.lock"}
