import os
from pathlib import Path

import pytest

from service.core.errors import InvalidOption, NotFound
from service.core.types import OutputFormat
from service.local.files import plan_files


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "sub/c.webp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def pairs(tasks, root):
    return {(str(task.source.relative_to(root)), str(task.target.relative_to(root))) for task in tasks}


def test_a_file_gets_a_name_beside_it(photos):
    (task,) = plan_files(photos / "a.jpg", None, None)
    assert task.target == photos / "a_restored.jpg"
    (task,) = plan_files(photos / "a.jpg", None, OutputFormat.PNG)
    assert task.target == photos / "a_restored.png"


def test_a_file_into_a_folder(photos, tmp_path):
    assert plan_files(photos / "a.jpg", tmp_path, None)[0].target == tmp_path / "a.jpg"
    assert plan_files(photos / "a.jpg", tmp_path / "new", OutputFormat.WEBP)[0].target == tmp_path / "new" / "a.webp"


def test_a_file_to_a_file(photos, tmp_path):
    assert plan_files(photos / "a.jpg", tmp_path / "z.png", None)[0].target == tmp_path / "z.png"


def test_a_folder_keeps_its_tree(photos, tmp_path):
    assert pairs(plan_files(photos, None, None), tmp_path) == {
        ("photos/a.jpg", "photos_restored/a.jpg"),
        ("photos/b.PNG", "photos_restored/b.PNG"),
        ("photos/sub/c.webp", "photos_restored/sub/c.webp"),
    }


@pytest.mark.parametrize(("inside", "named"), [("", "."), ("sub", "..")])
def test_a_folder_by_another_name_has_its_results_beside_it(photos, monkeypatch, inside, named):
    monkeypatch.chdir(photos / inside)
    targets = {task.target for task in plan_files(Path(named), None, None)}
    assert photos.with_name("photos_restored") / "a.jpg" in targets


def test_results_inside_the_folder_are_not_restored_again(photos):
    (photos / "out").mkdir()
    (photos / "out" / "a.jpg").write_bytes(b"x")
    assert len(plan_files(photos, photos / "out", None)) == 3


def test_two_photos_of_one_name_do_not_become_one(photos, tmp_path):
    (photos / "a.png").write_bytes(b"x")
    targets = [task.target for task in plan_files(photos, tmp_path / "out", OutputFormat.JPEG)]
    assert len(set(targets)) == len(targets) == 4
    for name in ("a.JPEG", "a.JPG"):
        (photos / name).write_bytes(b"x")
    targets = [task.target for task in plan_files(photos, tmp_path / "out", OutputFormat.PNG)]
    assert len(set(targets)) == len(targets) == 6


def test_a_photo_is_never_overwritten(photos, tmp_path):
    (tmp_path / "link.jpg").symlink_to(photos / "a.jpg")
    for target in (photos / "a.jpg", photos, tmp_path / "link.jpg"):
        with pytest.raises(InvalidOption, match=r"overwrite|folder of the photos"):
            plan_files(photos / "a.jpg" if target != photos else photos, target, None)


def test_a_photo_is_never_overwritten_by_its_own_folder(photos):
    with pytest.raises(InvalidOption, match="overwrite"):
        plan_files(photos / "a.jpg", photos, None)


def test_a_file_named_as_the_result_is_not_replaced_unasked(photos, tmp_path):
    there = photos / "b.jpg"
    there.write_bytes(b"another photo")
    with pytest.raises(InvalidOption, match=r"b\.jpg exists") as caught:
        plan_files(photos / "a.jpg", there, None)
    assert "--overwrite" in caught.value.hint
    assert plan_files(photos / "a.jpg", there, None, overwrite=True)[0].target == there
    with pytest.raises(InvalidOption, match="overwrite a photo"):
        plan_files(photos / "a.jpg", photos / "a.jpg", None, overwrite=True)


def test_what_is_named_after_its_photo_may_be_restored_again(photos, tmp_path):
    for source, target in ((photos, None), (photos, tmp_path / "out"), (photos / "a.jpg", None)):
        tasks = plan_files(source, target, None)
        for task in tasks:
            task.target.parent.mkdir(parents=True, exist_ok=True)
            task.target.write_bytes(b"an earlier result")
        assert len(plan_files(source, target, None)) >= len(tasks)
    assert plan_files(photos / "a.jpg", tmp_path / "out", None)[0].target.exists()


def test_a_suffix_the_service_does_not_write(photos, tmp_path):
    with pytest.raises(InvalidOption, match=r"z\.gif"):
        plan_files(photos / "a.jpg", tmp_path / "z.gif", None)
    with pytest.raises(InvalidOption, match=r"z\.png"):
        plan_files(photos / "a.jpg", tmp_path / "z.png", OutputFormat.JPEG)


def test_nothing_there(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "missing.jpg", tmp_path / "empty"):
        with pytest.raises(NotFound):
            plan_files(source, None, None)


def test_a_folder_that_takes_no_files_is_refused_before_the_work(photos, tmp_path, monkeypatch):
    (tmp_path / "in_the_way").write_text("x")
    with pytest.raises(InvalidOption, match="in_the_way is no folder"):
        plan_files(photos, tmp_path / "in_the_way" / "results", None)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    with pytest.raises(InvalidOption, match="new/results cannot be written to: you may not write there"):
        plan_files(photos / "a.jpg", tmp_path / "new" / "results", None)
    assert plan_files(photos / "a.jpg", photos / "new", None)


def test_a_folder_that_cannot_be_looked_at_is_left_to_those_that_write(photos, tmp_path):
    target = tmp_path / ("n" * 300) / "results"  # `Path.exists` raises for it, as below a folder one may not search
    assert len(plan_files(photos, target, None)) == 3


def test_dots_alone_are_no_name(photos):
    before = plan_files(photos, None, OutputFormat.PNG)
    (photos / "..jpg").write_bytes(b"x")
    assert plan_files(photos, None, OutputFormat.PNG) == before


def test_a_link_to_itself_does_not_end_the_plan(photos):
    (photos / "circle").symlink_to("circle")
    (photos / "sub" / "circle.jpg").symlink_to("circle.jpg")
    assert ("photos/sub/circle.jpg", "photos_restored/sub/circle.jpg") in pairs(
        plan_files(photos, None, None), photos.parent
    )


def test_a_folder_that_cannot_be_read_is_told_before_the_work(photos, monkeypatch):
    def scandir(folder, listed=os.scandir):
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(NotFound, match="sub cannot be read: Permission denied"):
        plan_files(photos, None, None)


def test_a_result_does_not_take_the_name_of_a_folder_of_results(photos, tmp_path):
    (photos / "a.png").mkdir()
    (photos / "a.png" / "d.png").write_bytes(b"x")
    targets = dict(pairs(plan_files(photos, tmp_path / "out", OutputFormat.PNG), tmp_path))
    assert (targets["photos/a.jpg"], targets["photos/a.png/d.png"]) == ("out/a_jpg.png", "out/a.png/d.png")


def test_results_do_not_go_around_the_photos(photos):
    (photos / "c.webp").write_bytes(b"another photo")
    with pytest.raises(InvalidOption, match="around it"):
        plan_files(photos / "sub", photos, None)
