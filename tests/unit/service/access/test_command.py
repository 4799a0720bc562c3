"""`latent-pmrf keys` as it is typed."""

import pytest

from service.access.key_file import KeyFile, read_entries
from service.cli import main
from tests.processes import only_these

OK, USAGE = 0, 2


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def keys(path, monkeypatch, capsys):
    """Runs the command; returns exit status, standard output and standard error."""
    only_these(monkeypatch, api_keys_file=path)

    def run(*arguments):
        return main(["keys", *map(str, arguments)]), *capsys.readouterr()

    return run


def test_a_new_key_is_shown_once_and_works(keys, path):
    status, out, err = keys("new", "--name", "shop", "--rate", "5", "--burst", "9", "--quota", "1000", "--window", "60")
    key = out.strip()
    assert status == OK
    assert key not in err
    assert key not in path.read_text()
    entry = KeyFile(path).ring.find(key)
    assert (entry.name, entry.rate.burst, entry.quota.face_px, entry.quota.window_s) == ("shop", 9, 1000, 60)


def test_keys_are_listed_without_what_they_are(keys, path):
    shown = [keys("new", "--name", name)[1].strip() for name in ("shop", "rival")]
    status, out, _ = keys("list")
    lines = [line.split("\t") for line in out.splitlines()]
    assert status == OK
    assert [line[1] for line in lines] == ["name", "shop", "rival"]
    assert [line[0] for line in lines[1:]] == [key.split("_")[1] for key in shown]
    assert not any(key in out or entry.blake2b in out for key in shown for entry in read_entries(path))


def test_a_revoked_key_counts_no_more(keys, path):
    first, second = (keys("new", "--name", "shop")[1].strip() for _ in range(2))
    assert keys("revoke", first.split("_")[1])[0] == OK
    ring = KeyFile(path).ring
    assert (ring.find(first), ring.find(second) is not None) == (None, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("revoke", "ffffffff"), "has no key with the id"),
        (("new", "--name", "two words"), "name"),
        (("new", "--name", "shop", "--rate", "0"), "requests_per_s"),
        (("new", "--name", "shop", "--burst", "3"), "burst without"),
        (("new", "--name", "shop", "--quota", "-1"), "quota_face_px"),
    ],
)
def test_mistakes_are_told_and_change_nothing(keys, path, arguments, told):
    keys("new", "--name", "shop")
    before = path.read_bytes()
    status, out, err = keys(*arguments)
    assert (status, out) == (USAGE, "")
    assert told in err
    assert path.read_bytes() == before


def test_without_a_file_it_is_told_where_to_name_one(keys, monkeypatch):
    monkeypatch.delenv("LATENT_PMRF_API_KEYS_FILE")
    status, _, err = keys("list")
    assert status == USAGE
    assert "--file" in err
    assert "LATENT_PMRF_API_KEYS_FILE" in err


def test_a_folder_that_is_not_there_is_told(keys, tmp_path):
    status, out, err = keys("new", "--name", "shop", "--file", tmp_path / "nowhere" / "keys.json")
    assert (status, out) == (USAGE, "")
    assert "cannot be written" in err
