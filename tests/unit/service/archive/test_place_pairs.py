import os

import pytest

from service.batch.items import Outcome
from service.batch.journal import Journal, State
from service.core.errors import InvalidOption, NotFound
from service.core.types import OutputFormat

fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install --editable '.[ray]'")
Place = pytest.importorskip("service.archive.places").Place
PlacePair = pytest.importorskip("service.archive.photos").PlacePair


@pytest.fixture
def store(tmp_path):
    for name in ("in/b.jpg", "in/a.png", "in/a.jpg", "in/notes.txt", "in/sub/c.webp", "in/done/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())


def pair(store, source="in", target="out", output_format=None):
    return PlacePair(Place(store, source), Place(store, target), output_format)


def names(photos):
    return [(item.name, item.target.as_posix()) for item in photos.items(pytest.fail)]


def test_photos_come_folder_by_folder_with_their_targets(store):
    assert names(pair(store)) == [
        ("a.jpg", "out/a.jpg"),
        ("a.png", "out/a.png"),
        ("b.jpg", "out/b.jpg"),
        ("done/d.jpg", "out/done/d.jpg"),
        ("sub/c.webp", "out/sub/c.webp"),
    ]
    assert sum(pair(store).counts()) == 5


def test_results_of_one_folder_have_names_of_their_own(store):
    targets = [target for _, target in names(pair(store, output_format=OutputFormat.JPEG))]
    assert targets[:2] == ["out/a.jpg", "out/a_png.jpg"]


def test_a_result_does_not_take_the_name_of_a_folder_of_results(store, tmp_path):
    (tmp_path / "in" / "c.jpg").mkdir()
    for name in ("c.png", "c.jpg/d.jpg"):
        (tmp_path / "in" / name).write_bytes(b"photo")
    targets = dict(names(pair(store, output_format=OutputFormat.JPEG)))
    assert (targets["c.png"], targets["c.jpg/d.jpg"]) == ("out/c_png.jpg", "out/c.jpg/d.jpg")


def test_dots_alone_are_no_name(store, tmp_path):
    (tmp_path / "in" / "..jpg").write_bytes(b"photo")
    assert len(names(pair(store, output_format=OutputFormat.PNG))) == 5


def test_the_place_of_the_results_is_left_out(store):
    assert "done/d.jpg" not in dict(names(pair(store, target="in/done")))


def test_photos_of_this_machine_have_any_name_on_their_way_to_a_store(store, tmp_path):
    folder = tmp_path / "in" / os.fsdecode(b"\xe9t\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"photo")
    photos = PlacePair(Place.of(str(tmp_path / "in")), Place(store, "out"), None)
    photos.check()
    assert os.fsdecode(b"\xe9t\xe9/caf\xe9.png") in dict(names(photos))
    assert len(names(photos)) == sum(photos.counts()) == 6


def test_places_that_cannot_be_meant_are_refused(store):
    pair(store).check()
    for target in ("in", "."):
        with pytest.raises(InvalidOption):
            pair(store, target=target).check()
    with pytest.raises(NotFound):
        pair(store, source="absent").check()


def test_the_journal_asks_the_listing_for_results(store, tmp_path):
    photos = pair(store)
    first, second, *_ = photos.items(pytest.fail)
    journal = Journal(tmp_path / "journal", {}, first.target.parent, result_bytes=photos.result_bytes)
    with journal:
        for item in (first, second):
            journal.note(Outcome(item, result_bytes=6))
        Place(store, "out").write("out/a.jpg", b"result")
        states = {item.name: journal.state_of(item) for item in photos.items(pytest.fail)}
    assert states["a.jpg"] is State.RESTORED
    assert states["a.png"] is State.NEW
