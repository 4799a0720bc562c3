import os

import pytest

from service.batch.folder import FolderPair
from service.core.errors import InvalidOption, NotFound
from service.core.types import OutputFormat


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.jpg", "b.PNG", "sub/c.webp", "sub/deep/d.jpeg", "notes.txt", "none/x.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def pairs(folders):
    items = list(folders.items(pytest.fail))
    assert sum(folders.counts()) == len(items)
    return [(item.name, item.target.relative_to(folders.target).as_posix()) for item in items]


def test_a_folder_keeps_its_tree(photos, tmp_path):
    assert pairs(FolderPair(photos, tmp_path / "out", None)) == [
        ("a.jpg", "a.jpg"),
        ("b.PNG", "b.PNG"),
        ("sub/c.webp", "sub/c.webp"),
        ("sub/deep/d.jpeg", "sub/deep/d.jpeg"),
    ]


def test_results_are_named_by_their_encoding(photos, tmp_path):
    (photos / "a.png").write_bytes(b"x")
    (photos / "a_png.jpg").write_bytes(b"x")
    assert pairs(FolderPair(photos, tmp_path / "out", OutputFormat.JPEG)) == [
        ("a.jpg", "a.jpg"),
        ("a.png", "a_png.jpg"),
        ("a_png.jpg", "a_png_jpg.jpg"),
        ("b.PNG", "b.jpg"),
        ("sub/c.webp", "sub/c.jpg"),
        ("sub/deep/d.jpeg", "sub/deep/d.jpeg"),
    ]


def test_a_result_does_not_take_the_name_of_a_folder_of_results(photos, tmp_path):
    (photos / "a.png").mkdir()
    (photos / "a.png" / "b.png").write_bytes(b"x")
    targets = dict(pairs(FolderPair(photos, tmp_path / "out", OutputFormat.PNG)))
    assert (targets["a.jpg"], targets["a.png/b.png"]) == ("a_jpg.png", "a.png/b.png")


def test_results_inside_the_folder_are_not_restored_again(photos):
    (photos / "sub" / "out").mkdir()
    (photos / "sub" / "out" / "a.jpg").write_bytes(b"x")
    assert len(pairs(FolderPair(photos, photos / "sub" / "out", None))) == 4


def test_a_link_that_leads_nowhere_does_not_hide_the_photos_beside_it(photos, tmp_path):
    (photos / "circle.jpg").symlink_to("circle.jpg")
    folders = FolderPair(photos, tmp_path / "out", None)
    assert [name for name, _ in pairs(folders)][:3] == ["a.jpg", "b.PNG", "circle.jpg"]
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(InvalidOption, match="is no folder"):
        folders.check()


def test_links_to_photos_are_followed_and_links_to_folders_are_not(photos, tmp_path):
    (photos / "link.jpg").symlink_to(photos / "a.jpg")
    (photos / "loop").symlink_to(photos)
    names = [name for name, _ in pairs(FolderPair(photos, tmp_path / "out", None))]
    assert names == ["a.jpg", "b.PNG", "link.jpg", "sub/c.webp", "sub/deep/d.jpeg"]


def test_a_link_to_a_photo_that_is_not_there_is_not_passed_over_in_silence(photos, tmp_path):
    (photos / "annexed.jpg").symlink_to(tmp_path / "disk that is not mounted" / "a.jpg")
    (photos / "notes").symlink_to(tmp_path / "gone")
    (item,) = (item for item in FolderPair(photos, tmp_path / "out", None).items(pytest.fail) if "annex" in item.name)
    assert (item.size_bytes, item.mtime_ns) == (-1, -1)


def test_folders_that_cannot_be_meant(photos, tmp_path):
    for target in (photos, tmp_path, photos / ".." / "in", photos / "a.jpg"):
        with pytest.raises(InvalidOption):
            FolderPair(photos, target, None).check()
    for source in (tmp_path / "missing", photos / "a.jpg"):
        with pytest.raises(NotFound):
            FolderPair(source, tmp_path / "out", None).check()
    FolderPair(photos, photos / "out", None).check()


def test_a_link_among_the_results_does_not_lead_back_to_the_photos(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(photos / "sub")
    with pytest.raises(InvalidOption, match="leads back"):
        list(FolderPair(photos, tmp_path / "out", None).items(pytest.fail))


def test_a_folder_that_cannot_be_listed_is_told_and_the_others_go_on(photos, tmp_path):
    folders, told = FolderPair(photos, tmp_path / "out", None), []
    items = folders.items(lambda path, _error: told.append(path.name))
    names = [next(items).name]
    (photos / "sub" / "c.webp").unlink()
    (photos / "sub" / "deep" / "d.jpeg").unlink()
    (photos / "sub" / "deep").rmdir()
    (photos / "sub").rmdir()
    names += [item.name for item in items]
    assert (names, told) == (["a.jpg", "b.PNG"], ["sub"])


def test_photos_have_names_of_their_own_whatever_their_characters(photos, tmp_path):
    (photos / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"x")
    (photos / ("n" * 240 + ".jpg")).write_bytes(b"x")
    ids = [item.id for item in FolderPair(photos, tmp_path / "out", None).items(pytest.fail)]
    assert len(set(ids)) == len(ids) == 6
    assert all(len(id.encode()) == 32 for id in ids)
