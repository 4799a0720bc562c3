import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from latent_pmrf.data.photographs import Photographs
from latent_pmrf.data.pictures import pictures_in, read_rgb
from latent_pmrf.data.validation import load_validation
from latent_pmrf.evaluation.folders import read_face

# How a camera stores an upright picture, by EXIF orientation.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def upright():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:10, :20] = 200
    image[:5, :5] = 90
    return image


def stored(kind, orientation, image):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(STORED[orientation](image))).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_pictures_are_upright(orientation, kind, deep):
    image = upright()
    data = stored(kind, orientation, image[..., 0].astype(np.uint16) * 257 if deep else image)
    np.testing.assert_array_equal(np.asarray(read_rgb(io.BytesIO(data), "a")), image)


def test_training_validation_and_evaluation_turn_a_photograph_alike(tmp_path):
    data = stored("PNG", 6, upright())
    for folder in (tmp_path, *(tmp_path / "val" / level for level in ("clean", "moderate", "severe"))):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.png").write_bytes(data)
    np.testing.assert_array_equal(Photographs(tmp_path)[0], upright())
    np.testing.assert_array_equal(read_face(tmp_path / "a.png", 40), upright())
    level = load_validation(tmp_path / "val", 40)[0]
    for planes in (level.clean[0], level.degraded[0]):
        np.testing.assert_array_equal((planes * 255).round().transpose(1, 2, 0), upright())


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing(exif):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (0, 255, 0)).save(buffer, "PNG", exif=exif)
    assert read_rgb(buffer, "a").size == (8, 8)


def write_bitmap(path, width):
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[18:22] = width.to_bytes(4, "little")
    path.write_bytes(data)


def test_a_face_that_pillow_takes_for_a_bomb_is_named(tmp_path):
    write_bitmap(tmp_path / "a.bmp", 2**30)
    with pytest.raises(ValueError, match=r"a\.bmp cannot be read: Image size"):
        read_face(tmp_path / "a.bmp", 8)


def test_a_missing_file_is_told_as_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "a.png", "a")


def test_what_macos_and_others_leave_in_a_folder_is_no_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "b.png").mkdir()
    assert list(pictures_in(tmp_path)) == ["a"]


@pytest.fixture
def faces(tmp_path):
    """Validation faces of one grey each; their names hold what a glob would follow."""
    for shift, folder in enumerate(("clean", "moderate", "severe")):
        (tmp_path / folder).mkdir()
        for level, name in ((10, "f1.png"), (110, "f[1].png"), (200, "f*.png")):
            Image.new("RGB", (32, 32), (level + shift,) * 3).save(tmp_path / folder / name)
        (tmp_path / folder / ".DS_Store").write_bytes(b"no picture")
    return tmp_path


def test_validation_faces_are_paired_by_their_names_alone(faces):
    moderate, severe = load_validation(faces, 32)
    found = [(values[:, 0, 0, 0] * 255).round() for values in (moderate.clean, moderate.degraded, severe.degraded)]
    np.testing.assert_array_equal(found[1] - found[0], np.ones(3))
    np.testing.assert_array_equal(found[2] - found[0], np.full(3, 2.0))


def test_validation_faces_that_cannot_be_used_are_named(faces):
    Image.new("RGB", (48, 32)).save(faces / "severe" / "f1.png")
    with pytest.raises(ValueError, match=r"severe/f1\.png has 48 x 32 pixels; validation takes square crops"):
        load_validation(faces, 32)
    (faces / "clean" / "f1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"clean/f1\.png cannot be read"):
        load_validation(faces, 32)
