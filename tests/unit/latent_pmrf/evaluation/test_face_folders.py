import numpy as np
import pytest
from PIL import Image

from latent_pmrf.evaluation.folders import pictures_in, read_face, scan_folder, spread


def put(folder, *names, side_px=32, value=100):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (side_px, side_px), (value, 0, 0)).save(folder / name)
    return folder


def test_pairs_by_name_one_level_per_folder(tmp_path):
    put(tmp_path / "clean", "a.jpg", "b.jpg", "never_degraded.jpg")
    put(tmp_path / "severe", "b.png", "a.png")
    put(tmp_path / "light", "a.webp")
    (tmp_path / "severe" / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    folder = scan_folder(tmp_path)
    assert folder.has_clean
    assert {level: [face.name for face in faces] for level, faces in folder.levels.items()} == {
        "light": ["a"],
        "severe": ["a", "b"],
    }
    assert folder.levels["severe"][1].clean == tmp_path / "clean" / "b.jpg"


def test_the_project_s_validation_faces_are_such_a_folder(val_dir):
    folder = scan_folder(val_dir, limit=3)
    assert list(folder.levels) == ["moderate", "severe"]
    assert [face.name for face in folder.levels["severe"]] == ["faker_000", "house_002", "house_003"]


def test_degraded_faces_alone(tmp_path):
    put(tmp_path / "flat", "a.png", "b.JPG")
    flat = scan_folder(tmp_path / "flat")
    assert not flat.has_clean
    assert [(face.name, face.clean) for face in flat.levels["degraded"]] == [("a", None), ("b", None)]
    put(tmp_path / "sets" / "lfw", "a.png")
    put(tmp_path / "sets" / "wider", "x.png", "y.png")
    assert {level: len(faces) for level, faces in scan_folder(tmp_path / "sets").levels.items()} == {
        "lfw": 1,
        "wider": 2,
    }


def test_clean_and_reference_faces_may_lie_elsewhere(tmp_path):
    put(tmp_path / "lq", "a.png")
    put(tmp_path / "hq", "a.jpg")
    put(tmp_path / "ffhq", "1.png", "2.png")
    folder = scan_folder(tmp_path / "lq", tmp_path / "hq", tmp_path / "ffhq")
    assert folder.levels["degraded"][0].clean == tmp_path / "hq" / "a.jpg"
    assert [path.name for path in folder.reference] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: root.rmdir(), "is not a folder"),
        (lambda root: None, "no faces in"),
        (lambda root: put(root, "a.png", "a.jpg"), "have one name"),
        (lambda root: (put(root / "clean", "a.png"), put(root, "a.png", "b.png", "c.png")), r"b.png .* \(2 of 3 have"),
        (lambda root: (put(root, "a.png"), (root / "clean").mkdir()), "no pictures in"),
    ],
)
def test_folders_that_cannot_be_measured(tmp_path, prepare, message):
    root = tmp_path / "faces"
    root.mkdir()
    prepare(root)
    with pytest.raises(ValueError, match=message):
        scan_folder(root)


def test_one_face_is_no_reference(tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        scan_folder(put(tmp_path / "faces", "a.png"), reference_dir=put(tmp_path / "real", "a.png"))


def test_faces_are_brought_to_the_bundle_s_size(tmp_path):
    path = put(tmp_path, "a.png", side_px=48) / "a.png"
    assert [read_face(path, size).shape for size in (48, 32)] == [(48, 48, 3), (32, 32, 3)]
    assert read_face(path, 64, enlarge=True)[32, 32].tolist() == [100, 0, 0]
    with pytest.raises(ValueError, match=r"a.png: .* cannot be shrunk to 64 px.* aligned, square"):
        read_face(path, 64)


def test_what_is_no_aligned_face_is_named(tmp_path):
    Image.new("L", (40, 32)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("wide.png", "text.png"):
        with pytest.raises(ValueError, match=name):
            read_face(tmp_path / name, 64, enlarge=True)


def test_modes_become_rgb(tmp_path):
    Image.new("RGBA", (32, 32), (1, 2, 3, 4)).save(tmp_path / "a.png")
    Image.new("L", (32, 32), 7).save(tmp_path / "b.png")
    faces = [read_face(path, 32) for path in pictures_in(tmp_path).values()]
    assert [face[0, 0].tolist() for face in faces] == [[1, 2, 3], [7, 7, 7]]
    assert all(face.dtype == np.uint8 for face in faces)


@pytest.mark.parametrize(
    ("limit", "indices"), [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])]
)
def test_a_limit_is_spread(limit, indices):
    assert spread(5, limit) == indices
