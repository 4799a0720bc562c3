import dataclasses
import io
import logging
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from latent_pmrf.data.datasets import Augmentation, FacePairs, augment
from latent_pmrf.data.degradation import DegradationRange, draw_degradation, without_colour
from latent_pmrf.data.photographs import Photographs
from latent_pmrf.data.pictures import UnreadablePicture
from latent_pmrf.data.validation import load_validation, to_tensor
from latent_pmrf.evaluation.folders import read_face

STILL = Augmentation(flip=False, rotate_deg=0.0, scale=0.0, shift=0.0)


def picture(value, side=32):
    ramp = np.linspace(0, 60, side, dtype=np.uint8)
    return np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], side), np.full((side, side), value)], -1).astype(
        np.uint8
    )


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=95)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def blues(images):
    return [int(image[0, 0, 2]) for image in images]


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    write_shard(tmp_path / "b.tar", {"1.png": encoded(picture(3))})
    write_shard(
        tmp_path / "a.tar", {"9.png": encoded(picture(1)), "notes.txt": b"no picture", "8.JPG": encoded(picture(2))}
    )
    images = Photographs(tmp_path)
    assert blues(images) == [1, 2, 3]
    assert {(image.dtype.name, image.shape) for image in images} == {("uint8", (32, 32, 3))}


def test_folders_and_patterns(tmp_path):
    for name, value in (("train_b.png", 2), ("train_a.png", 1), ("other.png", 9)):
        (tmp_path / name).write_bytes(encoded(picture(value)))
    (tmp_path / "train.txt").write_text("no picture")
    write_shard(tmp_path / "train.tar", {"x.png": encoded(picture(7))})
    assert blues(Photographs(tmp_path, "train*")) == [7, 1, 2]
    assert blues(Photographs(tmp_path, "*.png")) == [9, 1, 2]


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    Image.fromarray(picture(5)).convert("L").save(tmp_path / "a.png")
    Image.fromarray(picture(5)).convert("RGBA").save(tmp_path / "b.png")
    assert [image.shape for image in Photographs(tmp_path)] == [(32, 32, 3)] * 2


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pictures match .*train\*\.tar"):
        Photographs(tmp_path, "train*.tar")


def test_folders_of_folders(tmp_path):
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "1.png").write_bytes(encoded(picture(4)))
    assert blues(Photographs(tmp_path, "**/*.png")) == [4]


def test_a_picture_that_is_not_square_is_named(tmp_path):
    write_shard(tmp_path / "a.tar", {"wide.png": encoded(picture(1)[:20])})
    with pytest.raises(ValueError, match=r"a\.tar:wide\.png has 32 x 20 pixels"):
        Photographs(tmp_path)[0]


def test_a_picture_that_is_gone_is_named(tmp_path):
    write_shard(tmp_path / "a.tar", {"one.png": encoded(picture(1))})
    images = Photographs(tmp_path)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UnreadablePicture, match=r"a\.tar:one\.png cannot be read: No such file or directory"):
        images[0]


def test_a_shard_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"a\.tar is no uncompressed tar archive"):
        Photographs(tmp_path)


def test_what_is_no_picture_is_named(tmp_path):
    whole = encoded(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    write_shard(tmp_path / "a.tar", {"half.png": whole[: len(whole) // 2]})
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    images = Photographs(tmp_path)
    with pytest.raises(ValueError, match=r"a\.tar:half\.png cannot be read: "):
        images[0]
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read: it is no JPEG, PNG or WebP"):
        images[1]


def test_what_macos_writes_beside_a_file_is_passed_over(tmp_path, caplog):
    write_shard(tmp_path / "a.tar", {"1.png": encoded(picture(1)), "x/._1.png": b"a resource fork"})
    (tmp_path / "._a.tar").write_bytes(b"another")
    (tmp_path / "._b.png").write_bytes(b"another")
    (tmp_path / "b.png").write_bytes(encoded(picture(2)))
    with caplog.at_level(logging.INFO):
        assert blues(Photographs(tmp_path)) == [1, 2]
    assert "1 photographs in 1 shards, and 1 files" in caplog.text


@pytest.mark.parametrize("pattern", ["train/**/*", "**/*.png"])
def test_linked_folders_are_followed_and_no_picture_is_seen_twice(tmp_path, pattern):
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "1.png").write_bytes(encoded(picture(1)))
    (tmp_path / "elsewhere" / "2.png").write_bytes(encoded(picture(2)))
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    assert blues(Photographs(tmp_path / "data", pattern)) == [2, 1]


def deep_grey(path):
    """A 16-bit grey ramp over all levels."""
    Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(path)
    return np.round(np.linspace(0, 255, 64 * 64)).reshape(64, 64)


def test_sixteen_bits_of_grey_keep_their_levels(tmp_path):
    expected = deep_grey(tmp_path / "a.png")
    read = Photographs(tmp_path)[0]
    assert np.abs(read - expected[..., None]).max() <= 1
    np.testing.assert_array_equal(read_face(tmp_path / "a.png", 64), read)
    for level in ("clean", "moderate", "severe"):
        (tmp_path / "val" / level).mkdir(parents=True)
        deep_grey(tmp_path / "val" / level / "a.png")
    np.testing.assert_array_equal((load_validation(tmp_path / "val", 64)[0].clean[0, 0] * 255).round(), read[..., 0])


def test_no_augmentation_is_the_identity():
    np.testing.assert_array_equal(augment(picture(1), STILL, np.random.default_rng(0)), picture(1))


def test_half_of_the_photographs_are_mirrored():
    flip = Augmentation(flip=True, rotate_deg=0.0, scale=0.0, shift=0.0)
    results = [augment(picture(1), flip, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = [np.array_equal(result, picture(1)[:, ::-1]) for result in results]
    assert all(flipped or np.array_equal(result, picture(1)) for flipped, result in zip(mirrored, results, strict=True))
    assert sum(mirrored) / 200 == pytest.approx(0.5, abs=0.1)


def centroid(image):
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def blob(at, side=101, radius=3):
    y, x = np.mgrid[:side, :side]
    inside = (x - at[0]) ** 2 + (y - at[1]) ** 2 <= radius**2
    return np.where(inside[..., None], 255, 0).repeat(3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("field", "largest"),
    [("rotate_deg", 30 * np.deg2rad(20)), ("scale", 30 * 0.2), ("shift", 101 * 0.1 * 2**0.5)],
)
def test_geometry_moves_a_point_as_far_as_allowed(field, largest):
    amount = {"rotate_deg": 20.0, "scale": 0.2, "shift": 0.1}[field]
    augmentation = Augmentation(**{"flip": False, "rotate_deg": 0.0, "scale": 0.0, "shift": 0.0} | {field: amount})
    moves = []
    for seed in range(60):
        moved = centroid(augment(blob((80, 50)), augmentation, np.random.default_rng(seed))) - (80, 50)
        moves.append(np.linalg.norm(moved))
        radial, sideways = np.abs(moved)
        if field == "rotate_deg":
            assert radial < 2.5  # the chord's sagitta
        if field == "scale":
            assert sideways < 0.3
    assert largest / 2 < max(moves) < largest * 1.05 + 0.3


def test_the_centre_stays_without_a_shift():
    augmentation = Augmentation(flip=True, rotate_deg=20.0, scale=0.2, shift=0.0)
    for seed in range(10):
        moved = centroid(augment(blob((50, 50)), augmentation, np.random.default_rng(seed)))
        assert moved == pytest.approx([50, 50], abs=0.3)


def test_borders_are_reflected_not_black():
    white = np.full((64, 64, 3), 255, np.uint8)
    augmentation = Augmentation(rotate_deg=30.0, scale=0.3, shift=0.2)
    assert all(augment(white, augmentation, np.random.default_rng(seed)).min() == 255 for seed in range(10))


@pytest.fixture
def pairs():
    images = [picture(value, side) for value, side in ((10, 64), (120, 48), (230, 512))]
    return FacePairs(images, 32, DegradationRange(), Augmentation())


def test_pairs_have_one_size_and_show_the_same_photograph(pairs):
    for index, value in enumerate((10, 120, 230)):
        lq, hq = pairs.pair(index, np.random.default_rng(index))
        assert lq.shape == hq.shape == (32, 32, 3)
        assert hq[..., 2].mean() == pytest.approx(value, abs=2)
        assert not np.array_equal(lq, hq)


def test_only_photographs_without_the_detail_of_a_pair_are_treated_as_coarse(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "latent_pmrf.data.datasets.draw_degradation",
        lambda ranges, rng: drawn.append(ranges.downsample) or draw_degradation(ranges, rng),
    )
    pairs = FacePairs([picture(9, side) for side in (64, 128, 256)], 128, DegradationRange(downsample=(1.0, 32.0)))
    for index in range(3):
        pairs.pair(index, np.random.default_rng(0))
    assert drawn == [(16.0, 32.0), (1.0, 32.0), (1.0, 32.0)]


def test_the_clean_photograph_of_a_grey_one_is_grey_and_others_are_as_before(pairs):
    ranges = DegradationRange(gray_probability=0.5)
    grey_too, in_colour = (
        FacePairs(pairs.images, 32, dataclasses.replace(ranges, gray_target=choice), Augmentation())
        for choice in (True, False)
    )
    grey = 0
    for seed in range(40):
        (lq, hq), (same_lq, hq_in_colour) = (
            pair.pair(seed % 3, np.random.default_rng(seed)) for pair in (grey_too, in_colour)
        )
        np.testing.assert_array_equal(lq, same_lq)
        drawn = np.ptp(lq, axis=2).max() <= 4  # the compression's rounding
        grey += drawn
        np.testing.assert_array_equal(hq, without_colour(hq_in_colour) if drawn else hq_in_colour)
        assert np.ptp(hq_in_colour, axis=2).max() > 4
    assert 10 < grey < 30


@pytest.mark.parametrize("changes", [{"scale": 1.0}, {"rotate_deg": -1.0}, {"shift": -0.1}])
def test_augmentations_out_of_bounds_are_refused(changes):
    with pytest.raises(ValueError, match="augmentation takes"):
        Augmentation(**changes)


def test_batches_are_a_pure_function_of_their_generator(pairs):
    one, again, other = (pairs.batch(4, np.random.default_rng((7, step))) for step in (3, 3, 4))
    assert one[0].shape == one[1].shape == (4, 32, 32, 3)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])


def test_mirroring_alone_feeds_the_degradation(pairs):
    mirror = FacePairs(pairs.images, 32, DegradationRange(), Augmentation(rotate_deg=0.0, scale=0.0, shift=0.0))
    assert mirror.batch(8, np.random.default_rng(0))[0].shape == (8, 32, 32, 3)
    plain = FacePairs(pairs.images, 64, DegradationRange())
    np.testing.assert_array_equal(plain.pair(0, np.random.default_rng(0))[1], pairs.images[0])


def test_to_tensor_is_channels_first_in_unit_range():
    tensor = to_tensor(np.stack([picture(255), picture(0)]))
    assert tensor.shape == (2, 3, 32, 32)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor[:, 2, 0, 0].tolist() == [1, 0]
    assert tensor[0, 0, 0, 31].item() == pytest.approx(60 / 255)  # the red ramp runs along x


@pytest.fixture
def val_folder(tmp_path):
    for folder, offset in (("clean", 0), ("moderate", 1), ("severe", 2)):
        (tmp_path / folder).mkdir()
        for index in range(6):
            (tmp_path / folder / f"face_{index}.png").write_bytes(encoded(picture(40 * index + offset, 64)))
    return tmp_path


def test_validation_levels_share_their_clean_faces(val_folder):
    moderate, severe = load_validation(val_folder, 32)
    assert [moderate.name, severe.name] == ["moderate", "severe"]
    assert moderate.clean.shape == moderate.degraded.shape == (6, 3, 32, 32)
    np.testing.assert_array_equal(moderate.clean, severe.clean)
    assert (moderate.clean[:, 2, 0, 0] * 255).round().tolist() == [0, 40, 80, 120, 160, 200]
    assert (severe.degraded[:, 2, 0, 0] * 255).round().tolist() == [2, 42, 82, 122, 162, 202]


@pytest.mark.parametrize(
    ("limit", "blue"), [(3, [0, 80, 160]), (4, [0, 40, 120, 160]), (99, [0, 40, 80, 120, 160, 200])]
)
def test_validation_limit_is_spread_over_the_names(val_folder, limit, blue):
    assert (load_validation(val_folder, 32, limit=limit)[0].clean[:, 2, 0, 0] * 255).round().tolist() == blue


def test_validation_map_covers_every_face(val_folder):
    level = load_validation(val_folder, 32)[0]
    np.testing.assert_array_equal(
        level.map(lambda batch: batch.bfloat16() * 0 + 1, batch_size=4), np.ones((6, 3, 32, 32))
    )


def test_missing_validation_faces_are_named(val_folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="clean"):
        load_validation(tmp_path_factory.mktemp("empty"), 32)
    (val_folder / "severe" / "face_4.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"severe/face_4"):
        load_validation(val_folder, 32)
