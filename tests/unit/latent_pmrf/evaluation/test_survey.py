import csv
import json

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from latent_pmrf.evaluation.bundle import BundleRestorer
from latent_pmrf.evaluation.distributions import frechet_distance
from latent_pmrf.evaluation.folders import read_face, scan_folder
from latent_pmrf.evaluation.learned import load_learned
from latent_pmrf.evaluation.measures import MEASURES, NEED_CLEAN, SET_MEASURES
from latent_pmrf.evaluation.outputs import default_variant, restore_variants, variants_of
from latent_pmrf.evaluation.summary import Variant
from latent_pmrf.evaluation.survey import VAE, SurveyPlan, survey
from latent_pmrf.evaluation.survey_report import survey_markdown, survey_results, write_survey
from tests.bundle import make_graph, write_bundle
from tests.metric_networks import Inception, write_averages, write_mean_difference, write_torchscript

SIZE_PX = 192
PLAN = SurveyPlan(num_steps=(1, 4, 25), fidelities=(0.0, 0.25, 1.0), batch_size=3, num_landmarks=None, sheet_faces=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Analytic networks; defaults 2 steps and fidelity 0.5, at most 4 steps."""
    return BundleRestorer(write_bundle(tmp_path_factory.mktemp("survey") / "bundle", size_px=SIZE_PX))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    files = {
        "lpips": write_mean_difference(root / "lpips.onnx"),
        "fid": write_torchscript(Inception(), root / "inception.pt"),
        "dinov2": write_averages(root / "dinov2.onnx", 224),
    }
    return load_learned(files)


@pytest.fixture(scope="module")
def measured(bundle, learned, val_dir, tmp_path_factory):
    """A survey of the validation faces with files, and what was reported on the way."""
    progress = []
    found = survey(bundle, scan_folder(val_dir), learned, PLAN, lambda *call: progress.append(call))
    out = tmp_path_factory.mktemp("out")
    write_survey(found, out)
    return found, out, progress


@pytest.fixture(scope="module")
def blind(bundle, val_dir, tmp_path_factory):
    """A survey of degraded faces alone."""
    root = tmp_path_factory.mktemp("blind")
    for path in sorted((val_dir / "severe").iterdir())[:2]:
        (root / path.name).symlink_to(path)
    found = survey(bundle, scan_folder(root), load_learned({}), PLAN)
    write_survey(found, root / "out")
    return found, root / "out"


def row(found, variant):
    rows = [item for item in survey_results(found)["rows"] if Variant(item["level"], item["method"]) == variant]
    assert len(rows) == 1
    return rows[0]


def test_rows_are_steps_at_fidelity_0_and_fidelities_at_the_default_steps(bundle):
    assert [
        (item.method, item.num_steps, item.fidelity) for item in variants_of("x", bundle.spec, (1, 4, 25), (0, 0.25, 1))
    ] == [
        ("input", 0, 0),
        ("estimator", 0, 0),
        ("sample", 1, 0),
        ("sample", 2, 0),
        ("sample", 4, 0),
        ("blend", 2, 0.25),
        ("blend", 2, 0.5),
    ]
    assert default_variant("x", bundle.spec) == Variant("x", "blend", 2, 0.5)


@pytest.mark.parametrize(("fidelity", "expected"), [(0, ("sample", 2)), (1, ("estimator", 0))])
def test_a_default_at_an_end_is_the_row_of_that_end(make_bundle, fidelity, expected):
    bundle = BundleRestorer(make_bundle(default_fidelity=fidelity))
    assert default_variant("x", bundle.spec) == Variant("x", *expected)
    assert default_variant("x", bundle.spec) in variants_of("x", bundle.spec, (1,), (0.5,))


def test_outputs_are_the_analytic_networks(bundle, val_dir):
    face = read_face(val_dir / "severe" / "house_002.png", SIZE_PX)
    variants = variants_of("x", bundle.spec, (1, 4), (0.25,))
    outputs, estimates = restore_variants(bundle, [face, face[::-1].copy()], variants, 0, 0)
    assert outputs.shape == (2, len(variants), SIZE_PX, SIZE_PX, 3)
    by_name = dict(zip(variants, outputs[0].astype(float), strict=True))
    np.testing.assert_array_equal(by_name[Variant("x", "input")], face)
    np.testing.assert_allclose(estimates[0], face / 2 + 255 / 4, atol=0.51)
    shift = 255 * 0.5 * (3 / 8) / 4  # of four steps (tests of the restorer)
    np.testing.assert_allclose(by_name[Variant("x", "sample", 4)] - estimates[0], shift, atol=1)
    blend = (by_name[Variant("x", "sample", 2)] * 3 + estimates[0]) / 4
    np.testing.assert_allclose(by_name[Variant("x", "blend", 2, 0.25)], blend, atol=0.51)


def test_every_face_of_every_level_is_measured(measured):
    found, _, progress = measured
    assert {variant.level for variant in found.pictures} == {"clean", "moderate", "severe"}
    assert {len(faces) for faces in found.pictures.values()} == {4}
    assert [call for call in progress if call[0] == "severe"] == [("severe", 3, 4), ("severe", 4, 4)]
    assert found.steps_left_out == (25,)


def test_means_are_those_of_the_analytic_networks(measured):
    found, _, _ = measured
    assert row(found, VAE)["psnr"] == 100
    assert row(found, VAE)["ind_rmse"] is None
    assert row(found, Variant("severe", "estimator"))["ind_rmse"] == 0
    assert row(found, Variant("severe", "input"))["psnr"] < row(found, Variant("moderate", "input"))["psnr"]
    assert row(found, Variant("severe", "input"))["lpips"] > row(found, Variant("moderate", "input"))["lpips"] > 0


def test_distributions_are_compared_with_the_clean_faces_of_the_level(measured, val_dir):
    found, _, _ = measured
    faces = {
        folder: np.stack([read_face(path, SIZE_PX).mean((0, 1)) for path in sorted((val_dir / folder).iterdir())])
        for folder in ("clean", "severe")
    }
    expected = frechet_distance(faces["severe"], faces["clean"])
    assert row(found, Variant("severe", "input"))["fid"] == pytest.approx(expected, rel=1e-3)
    assert row(found, VAE)["fid"] == pytest.approx(0, abs=1e-3)
    assert row(found, Variant("severe", "estimator"))["mmd_dinov2"] is not None


def test_distributions_may_be_compared_with_other_faces(bundle, learned, val_dir):
    folder = scan_folder(val_dir / "severe", reference_dir=val_dir / "severe", limit=4)
    found = survey(bundle, folder, learned, PLAN)
    assert row(found, Variant("degraded", "input"))["fid_dinov2"] == pytest.approx(0, abs=1e-4)
    assert row(found, Variant("degraded", "estimator"))["fid_dinov2"] > 0.01
    assert "4 reference faces" in survey_markdown(survey_results(found))
    assert found.skipped["lpips"] == "needs clean faces"


def test_what_was_not_measured_is_named_and_never_zero(measured):
    found, out, _ = measured
    assert found.skipped == {
        "identity_deg": "dlib is left out, or not installed, and no weights given (--weights arcface=FILE)",
        "landmark_px": "dlib is left out, or not installed",
        "dists": "no weights given (--weights dists=FILE)",
        "musiq": "no weights given (--weights musiq=FILE)",
    }
    for item in survey_results(found)["rows"]:
        assert all(item[key] is None for key in found.skipped)
        assert all(
            item[measure.key] is not None for measure in MEASURES if measure.key not in {*found.skipped, "ind_rmse"}
        )
    assert "- MUSIQ: no weights given (--weights musiq=FILE)" in (out / "report.md").read_text()


def test_degraded_faces_alone_have_measures_without_a_reference(blind):
    found, out = blind
    assert found.skipped.keys() == {*NEED_CLEAN, "musiq", *(measure.key for measure in SET_MEASURES)}
    assert found.skipped["psnr"] == "needs clean faces"
    assert VAE not in found.pictures
    assert row(found, Variant("degraded", "estimator"))["ind_rmse"] == 0
    assert row(found, Variant("degraded", "input"))["detail"] > 0
    report = (out / "report.md").read_text()
    assert "| output | IndRMSE ↓ | detail |" in report
    assert (out / "perception_distortion.png").is_file()


def test_one_face_has_no_distribution(bundle, learned, val_dir):
    found = survey(bundle, scan_folder(val_dir, limit=1), learned, PLAN)
    assert found.skipped["fid"] == "needs at least two faces of each level"
    assert found.sets == {}


def velocity_of_pixels():
    """ONNX of a velocity in pixel space that is t everywhere."""
    image = ["batch", 3, SIZE_PX, SIZE_PX]
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
        helper.make_node("Unsqueeze", ["t", "axes"], ["column"]),
        helper.make_node("Sub", ["x_t", "x_t"], ["nothing"]),
        helper.make_node("Add", ["nothing", "column"], ["velocity"]),
    ]
    return make_graph(nodes, {"x_t": image, "t": ["batch"]}, {"velocity": image})


def test_a_pixel_bundle_has_no_vae_to_measure(make_bundle, val_dir):
    latent = {"channels": 3, "downscale": 1, "mean": [0.0] * 3, "std": [1.0] * 3}
    networks = {"velocity": velocity_of_pixels()}
    bundle = BundleRestorer(make_bundle(size_px=SIZE_PX, space="pixel", latent=latent, networks=networks))
    found = survey(bundle, scan_folder(val_dir, limit=1), load_learned({}), PLAN)
    assert VAE not in found.pictures
    two_steps = found.pictures[Variant("severe", "sample", 2)][0].scores["ind_rmse"]
    assert two_steps == pytest.approx(0.25, abs=0.01)  # (0 + 1/2) / 2, a little less where it is clipped


def test_files_hold_the_same_results(measured):
    found, out, _ = measured
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(json.dumps(survey_results(found)))
    with (out / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(item["psnr"]) for item in rows] == [item["psnr"] for item in results["rows"]]
    assert {item["musiq"] for item in rows} == {""}
    with (out / "faces.csv").open() as file:
        faces = [item for item in csv.DictReader(file) if (item["level"], item["method"]) == ("severe", "input")]
    assert [item["name"] for item in faces] == ["faker_000", "faker_001", "house_002", "house_003"]
    mean = np.mean([float(item["psnr"]) for item in faces])
    assert mean == pytest.approx(row(found, Variant("severe", "input"))["psnr"])


def test_report_tells_the_default_and_what_was_left_out(measured):
    report = (measured[1] / "report.md").read_text()
    assert "| **2 steps, fidelity 0.5** |" in report
    assert "## severe (4 faces)" in report
    assert "Left out: 25 steps; the bundle allows at most 4." in report
    assert "fewer than some 2000 faces are too high" in report


def test_sheets_show_each_level_without_the_sweep_of_fidelities(measured):
    with Image.open(measured[1] / "sheet_severe.png") as image:
        assert image.size == (
            6 + 7 * (SIZE_PX + 6),
            26 + 2 * (SIZE_PX + 26),
        )  # input, estimator, 3 samples, default, clean
