import errno

import pytest

from service.batch.results import ends_everything, write_result


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


def test_the_longest_name_can_be_written(tmp_path):
    write_result(tmp_path / ("n" * 251 + ".png"), b"one")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_ends_everything_and_a_bad_name_does_not():
    assert ends_everything(OSError(errno.ENOSPC, "full"))
    assert not ends_everything(OSError(errno.ENAMETOOLONG, "long"))
