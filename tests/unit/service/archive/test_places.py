import pytest

from service.core.errors import InvalidOption

fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install --editable '.[ray]'")
Place = pytest.importorskip("service.archive.places").Place


def store(root, folder):
    """A place that is not known as a folder of this machine; its files are."""
    return Place(fs.SubTreeFileSystem(str(root), fs.LocalFileSystem()), folder)


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_folders_have_a_path_or_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Place.of("photos").root == str(tmp_path / "photos")
    assert Place.of(f"file://{tmp_path}/photos/").root == str(tmp_path / "photos")
    assert Place.of("photos").is_local


def test_an_address_of_nothing_known_is_refused():
    with pytest.raises(InvalidOption, match="nothing://there"):
        Place.of("nothing://there")


def test_a_listing_has_files_and_folders_by_name(tmp_path):
    for name in ("b.jpg", "a.jpg", "z/c.jpg", "y/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "z")
    entries, folders = Place.of(str(tmp_path)).listing(str(tmp_path))
    assert [(entry.name, entry.size_bytes) for entry in entries] == [("a.jpg", 5), ("b.jpg", 5)]
    assert entries[0].mtime_ns == (tmp_path / "a.jpg").stat().st_mtime_ns
    assert folders == ["y", "z"]


def test_a_folder_that_is_not_there_has_an_empty_listing(tmp_path):
    place = Place.of(str(tmp_path / "absent"))
    assert place.listing(place.root) == ([], [])
    assert not place.is_folder()


@pytest.mark.parametrize("kind", ["local", "store"])
def test_a_result_is_written_whole_and_alone(tmp_path, kind):
    place, root = (Place.of(str(tmp_path)), str(tmp_path)) if kind == "local" else (store(tmp_path, "."), ".")
    place.write(f"{root}/new/a.png", b"first")
    place.write(f"{root}/new/a.png", b"second")
    assert files(tmp_path) == ["new/a.png"]
    assert place.read(f"{root}/new/a.png", 100) == b"second"
    assert place.read(f"{root}/new/a.png", 3) == b"sec"


def test_places_know_what_is_inside_them(tmp_path):
    outer, inner = Place.of(str(tmp_path)), Place.of(str(tmp_path / "inner"))
    assert outer.holds(inner)
    assert outer.holds(outer)
    assert not inner.holds(outer)
    assert not outer.holds(store(tmp_path, str(tmp_path / "inner")))
