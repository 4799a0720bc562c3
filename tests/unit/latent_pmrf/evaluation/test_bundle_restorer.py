import json

import numpy as np
import pytest

from latent_pmrf.evaluation.bundle import BundleRestorer, Source, parse_spec, read_manifest, source_noise
from latent_pmrf.evaluation.card_faces import astronaut, generated_faces
from latent_pmrf.evaluation.dataset import ValidationFace, load_faces
from latent_pmrf.evaluation.folders import shrink
from latent_pmrf.evaluation.restoration import photo_seed, restoring
from tests.bundle import CHANNELS, PATCH

SIZE = 192
CELLS = SIZE // PATCH


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 0.8, (count, SIZE, SIZE, 3)).astype(np.float32)


def test_each_network_is_run_with_its_ranges(make_bundle):
    bundle, batch = BundleRestorer(make_bundle()), images(3)  # the networks take two rows at a time
    np.testing.assert_allclose(bundle.estimate(batch), 0.5 * batch + 0.25, atol=1e-6)
    latents = bundle.encode(batch)
    assert latents.shape == (3, CHANNELS, CELLS, CELLS)
    assert latents.mean() == pytest.approx((2 * (2 * batch.mean() - 1) - 0.1) / 0.5, abs=1e-4)
    np.testing.assert_allclose(bundle.decode(latents), batch, atol=1e-6)
    np.testing.assert_allclose(bundle.reconstruct(batch), batch, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_transport_integrates_the_velocity(make_bundle, num_steps):
    bundle, batch = BundleRestorer(make_bundle()), images(3)
    latents = bundle.encode(batch)
    moved = bundle.transport(Source(latents, latents), num_steps)
    shift = (num_steps - 1) / (2 * num_steps)  # the left sum of t, in normalised latents
    np.testing.assert_allclose(moved - batch, 0.5 * shift / 4, atol=1e-6)


def test_in_pixel_space_the_flow_s_space_is_the_picture(make_bundle):
    latent = {"channels": 3, "downscale": 1, "mean": [0.0] * 3, "std": [1.0] * 3}
    bundle, batch = BundleRestorer(make_bundle(space="pixel", latent=latent)), images(2)
    np.testing.assert_array_equal(bundle.encode(batch), batch.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(bundle.decode(bundle.encode(batch) * 2 - 0.8), (batch * 2 - 0.8).clip(0, 1))


def test_source_adds_each_photo_s_own_noise(make_bundle):
    bundle, batch = BundleRestorer(make_bundle(sigma_s=(0.3,))), images(1).repeat(3, 0)
    source = bundle.source(batch, [7, 8, 7])
    np.testing.assert_array_equal(source.mean, bundle.encode(batch))
    x_0, noise = source.x_0, (source.x_0 - source.mean) / 0.3
    np.testing.assert_allclose(noise[0], source_noise(x_0.shape[1:], 7), atol=1e-4)
    assert noise.std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(x_0[0], x_0[2])
    assert np.abs(noise[0] - noise[1]).mean() > 0.5


def test_noise_may_differ_by_channel(make_bundle):
    sigma_s = np.linspace(0, 1, CHANNELS)
    bundle, batch = BundleRestorer(make_bundle(sigma_s=sigma_s.tolist())), images(1)
    source = bundle.source(batch, [1])
    noise = source.x_0 - source.mean
    np.testing.assert_allclose(noise.std((0, 2, 3)), sigma_s, atol=0.15)
    assert not noise[:, 0].any()


def test_noise_of_a_face_is_its_own():
    shape = (2, 3, 4)
    np.testing.assert_array_equal(source_noise(shape, 5), source_noise(shape, 5, 0))
    assert not np.array_equal(source_noise(shape, 5, 0), source_noise(shape, 5, 1))
    assert source_noise(shape, 2**62).dtype == np.float32


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda manifest: manifest["networks"].pop("velocity"), "networks.velocity is missing"),
        (lambda manifest: manifest["networks"]["estimator"].update(sha256="0" * 64), r"networks\.estimator\.sha256"),
        (
            lambda manifest: manifest["networks"]["estimator"].update(file="no.onnx"),
            r"networks\.estimator\.file: .*no\.onnx",
        ),
        (lambda manifest: manifest.update(space="frequency"), "space: expected latent or pixel, not 'frequency'"),
        (lambda manifest: manifest.pop("sigma_s"), "lacks sigma_s"),
        (lambda manifest: manifest["latent"].pop("std"), "lacks std"),
        (
            lambda manifest: manifest["networks"].update(velocity=manifest["networks"]["estimator"]),
            r"networks\.velocity: expected \['t', 'x_t'\] -> velocity",
        ),
    ],
)
def test_a_misfit_bundle_is_refused_by_field(make_bundle, change, named):
    repository = make_bundle()
    manifest = json.loads((repository / "manifest.json").read_text())
    change(manifest)
    (repository / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=named):
        BundleRestorer(repository)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json does not exist: export a bundle first"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no object"):
        read_manifest(tmp_path)


def test_spec_has_the_defaults(make_bundle):
    spec = parse_spec(read_manifest(make_bundle(default_num_steps=3, default_fidelity=0.25)))
    assert (spec.default_num_steps, spec.max_num_steps, spec.default_fidelity) == (3, 4, 0.25)
    assert spec.latent_std == (0.5,) * CHANNELS


def test_faces_are_loaded_with_their_levels(val_dir, face_512):
    faces = load_faces(val_dir, 256)
    assert [(face.name, face.source_set) for face in faces] == [
        ("faker_000", "faker"),
        ("faker_001", "faker"),
        ("house_002", "house"),
        ("house_003", "house"),
    ]
    assert {picture.shape for face in faces for picture in (face.clean, *face.degraded.values())} == {(256, 256, 3)}
    np.testing.assert_array_equal(faces[0].degraded["severe"], shrink(face_512.degraded["severe"], 256))


def test_a_limit_keeps_every_source_set(val_dir):
    assert [face.name for face in load_faces(val_dir, 64, limit=2)] == ["faker_000", "house_003"]


def test_faces_that_cannot_be_used_are_named(val_dir, tmp_path):
    with pytest.raises(ValueError, match="clean is not a folder"):
        load_faces(tmp_path, 64)
    with pytest.raises(ValueError, match="512x512 cannot be shrunk to 1024"):
        load_faces(val_dir, 1024)
    for folder in ("clean", "moderate", "severe"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="no faces in"):
        load_faces(tmp_path, 64)
    picture = (val_dir / "clean" / "faker_000.jpg").read_bytes()
    (tmp_path / "clean" / "a_1.jpg").write_bytes(picture)
    (tmp_path / "moderate" / "a_1.jpeg").write_bytes(picture)
    with pytest.raises(ValueError, match=r"a_1\.jpg has no degraded version in .*severe"):
        load_faces(tmp_path, 64)
    (tmp_path / "severe" / "a_1.webp").write_bytes(picture)
    assert [face.name for face in load_faces(tmp_path, 64)] == ["a_1"]


def test_restoration_is_the_same_in_any_batch(make_bundle, val_dir):
    bundle, faces = BundleRestorer(make_bundle(sigma_s=(0.2,))), load_faces(val_dir, SIZE)
    seen = []
    runs = [(1, 0), (2, 0), (2, 5)]
    *_, together = restoring(bundle, faces, runs, batch_size=3, progress=lambda *call: seen.append(call))
    *_, alone = restoring(bundle, faces, runs, batch_size=1)
    assert set(together.samples) == {(level, *run) for level in ("moderate", "severe") for run in runs}
    for key, pictures in together.samples.items():
        np.testing.assert_array_equal(pictures, alone.samples[key])
    assert seen == [(f"restore {level}", done, 4) for level in ("clean", "moderate", "severe") for done in (3, 4)]
    assert not np.array_equal(together.samples["severe", 2, 0], together.samples["severe", 2, 5])


def test_seeds_of_a_run_do_not_collide():
    assert len({photo_seed(seed, index) for seed in range(3) for index in range(1000)}) == 3000


def test_the_astronaut_is_aligned_and_really_degraded():
    face = astronaut(256)
    assert face.clean.shape == (256, 256, 3)
    errors = [np.abs(face.degraded[level].astype(float) - face.clean).mean() for level in ("moderate", "severe")]
    assert 1 < errors[0] < errors[1]
    np.testing.assert_array_equal(astronaut(256).degraded["severe"], face.degraded["severe"])


def test_only_generated_people_may_be_shown():
    blank = np.zeros((2, 2, 3), np.uint8)
    names = ["faker_1", "house_2", "t2i_3", "wiki_4", "t2i_5", "faker_6"]
    faces = [ValidationFace(name, name.split("_")[0], blank, {}) for name in names]
    assert generated_faces(faces, 10) == [0, 2, 4, 5]
    assert generated_faces(faces, 2) == [0, 5]
    assert generated_faces(faces[1:2], 2) == []
