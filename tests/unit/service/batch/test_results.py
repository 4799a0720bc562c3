import pytest

from service.batch.results import write_result


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
