import errno
import fcntl
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import pytest

from service.local.results import ends_everything, replacing, write_result


def test_a_result_is_there_whole(tmp_path):
    write_result(tmp_path / "a" / "b" / "c.png", b"one")
    write_result(tmp_path / "a" / "b" / "c.png", b"two")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]
    assert (tmp_path / "a" / "b" / "c.png").read_bytes() == b"two"


def test_nothing_is_left_of_a_result_that_cannot_be_written(tmp_path):
    (tmp_path / "c.png").mkdir()
    (tmp_path / "c.png" / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        write_result(tmp_path / "c.png", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_who_writes_the_same_result_at_once_leaves_a_whole_one_each_time(tmp_path):
    path = tmp_path / "c.png"
    whole = [bytes([number]) * 1_000_000 for number in range(8)]

    def write(data):
        for _ in range(5):
            write_result(path, data)
            assert path.read_bytes() in whole

    with ThreadPoolExecutor(len(whole)) as pool:
        list(pool.map(write, whole))
    assert [found.name for found in tmp_path.iterdir()] == ["c.png"]


def test_what_a_crash_has_left_is_no_part_of_the_result(tmp_path):
    write_result(tmp_path / "c.png", b"one")
    (tmp_path / "c.png").rename(tmp_path / f".{blake2b(b'c.png', digest_size=16).hexdigest()}.partial")
    write_result(tmp_path / "c.png", b"2")
    assert [found.name for found in tmp_path.iterdir()] == ["c.png"]
    assert (tmp_path / "c.png").read_bytes() == b"2"


def test_the_longest_name_can_be_written(tmp_path):
    write_result(tmp_path / ("n" * 251 + ".png"), b"one")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_ends_everything_and_a_bad_name_does_not():
    assert ends_everything(OSError(errno.ENOSPC, "full"))
    assert not ends_everything(OSError(errno.ENAMETOOLONG, "long"))


def test_a_file_system_without_locks_takes_results(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    write_result(tmp_path / "c.png", b"one")
    assert [found.name for found in tmp_path.iterdir()] == ["c.png"]
    assert (tmp_path / "c.png").read_bytes() == b"one"


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path):
    path = tmp_path / "report"
    path.write_bytes(b"before")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"before"]
