import errno
import os

import pytest

from service.core.errors import InvalidOption

fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install --editable '.[ray]'")
Place = pytest.importorskip("service.archive.places").Place

LATIN_1 = os.fsdecode(b"caf\xe9.png")


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


def test_local_names_need_not_be_utf_8(tmp_path):
    place = Place.of(str(tmp_path / os.fsdecode(b"\xe9t\xe9")))
    assert not place.is_folder()
    path = f"{place.root}/{LATIN_1}"
    place.write(path, b"photo")
    (tmp_path / place.root / "sub").mkdir()
    entries, folders = place.listing(place.root)
    assert [(entry.name, entry.size_bytes) for entry in entries] == [(LATIN_1, 5)]
    assert folders == ["sub"]
    assert place.is_folder()
    assert place.read(path, 2) == b"ph"


def test_names_in_a_store_are_utf_8(tmp_path):
    place = store(tmp_path, ".")
    assert place.listing(f"./{LATIN_1}") == ([], [])
    with pytest.raises(OSError, match="UTF-8") as refused:
        place.write(f"./{LATIN_1}", b"result")
    assert refused.value.errno == errno.EILSEQ
    assert files(tmp_path) == []


def test_a_link_that_leads_nowhere_does_not_hide_the_files_beside_it(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    entries, _ = Place.of(str(tmp_path)).listing(str(tmp_path))
    assert [(entry.name, entry.size_bytes) for entry in entries] == [
        ("a.jpg", 5),
        ("circle.jpg", -1),
        ("dangling.jpg", -1),
    ]


def test_places_know_what_is_inside_them(tmp_path):
    outer, inner = Place.of(str(tmp_path)), Place.of(str(tmp_path / "inner"))
    assert outer.holds(inner)
    assert outer.holds(outer)
    assert not inner.holds(outer)
    assert not outer.holds(store(tmp_path, str(tmp_path / "inner")))
