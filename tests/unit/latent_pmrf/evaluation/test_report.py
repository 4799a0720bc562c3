import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from latent_pmrf.evaluation import tables
from latent_pmrf.evaluation.bundle import read_manifest
from latent_pmrf.evaluation.model_card import bundle_size_bytes, write_card_pictures, write_model_card
from latent_pmrf.evaluation.pictures import SheetRow, save, sheet
from latent_pmrf.evaluation.report import EvaluationPlan, evaluate, results_of
from latent_pmrf.evaluation.summary import Variant
from tests.bundle import write_bundle

PLAN = EvaluationPlan(
    num_steps=(1, 2, 25), fidelities=(0.0, 0.5, 1.0), seeds=(0, 3), with_identity=False, sheet_faces=2, batch_size=3
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, val_dir):
    """An evaluation of the analytic bundle, its folder of results, and what was reported on the way."""
    root = tmp_path_factory.mktemp("evaluation")
    progress = []
    repository = write_bundle(root / "bundle", sigma_s=(0.0,))
    evaluation = evaluate(repository, val_dir, root / "out", PLAN, lambda *call: progress.append(call))
    return evaluation, root, progress


def row(results, level, method, **fields):
    found = [
        entry
        for entry in results["rows"]
        if entry["level"] == level and entry["method"] == method and fields.items() <= entry.items()
    ]
    assert len(found) == 1
    return found[0]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_means_are_those_of_the_analytic_networks(measured):
    results = results_of(measured[0])
    assert row(results, "clean", "vae")["psnr"] == 100
    assert row(results, "severe", "estimator")["ind_rmse"] == 0
    # Each step count shifts the estimate by a known amount (tests of the restorer); two steps by 1/32.
    assert row(results, "severe", "sample", num_steps=2)["ind_rmse"] == pytest.approx(1 / 32, abs=2e-3)
    assert row(results, "severe", "sample", num_steps=1)["ind_rmse"] < 3e-3
    assert row(results, "severe", "default")["ind_rmse"] == pytest.approx(1 / 64, abs=3e-3)
    assert row(results, "severe", "input")["psnr"] < row(results, "moderate", "input")["psnr"]


def test_steps_beyond_the_manifest_s_maximum_are_left_out(measured):
    evaluation, _, _ = measured
    assert {steps for _, steps, _ in evaluation.restored.samples} == {1, 2}
    assert set(evaluation.sweep) == {(steps, fidelity) for steps in (1, 2) for fidelity in (0.0, 0.5, 1.0)}


def test_seeds_repeat_the_default_only(measured):
    evaluation, _, _ = measured
    assert len(evaluation.measured[Variant("severe", "default", 2, 0.5)]) == 8
    assert len(evaluation.measured[Variant("severe", "sample", 2)]) == 4
    assert results_of(evaluation)["seed_spread"] == {"moderate": 0, "severe": 0}  # this bundle has no noise


def test_floors_fail_for_what_was_not_measured(measured):
    floors = {floor.name: floor.passed for floor in measured[0].floors}
    assert floors["VAE reconstruction, PSNR (dB)"]
    assert not floors["severe: share of faces nearer than the input"]


def test_default_output_is_the_blend(measured):
    evaluation, _, _ = measured
    sample = evaluation.restored.samples["severe", 2, 0][1].astype(float)
    estimate = evaluation.restored.estimates["severe"][1].astype(float)
    np.testing.assert_allclose(evaluation.default_output("severe", 1), (sample + estimate) / 2, atol=0.51)


def test_progress_covers_every_picture(measured):
    _, _, progress = measured
    finished = {stage for stage, done, total in progress if done == total}
    assert {"restore clean", "restore severe", "vae", "severe input", "moderate blends, 2 steps"} <= finished
    assert finished == {stage for stage, _, _ in progress}


def test_files_hold_the_same_results(measured):
    evaluation, root, _ = measured
    results = json.loads((root / "out" / "results.json").read_text())
    assert results == json.loads(json.dumps(results_of(evaluation)))
    with (root / "out" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(entry["psnr"]) for entry in rows] == [entry["psnr"] for entry in results["rows"]]
    with (root / "out" / "faces.csv").open() as file:
        faces = list(csv.DictReader(file))
    assert len(faces) == sum(entry["count"] for entry in results["rows"])
    assert {entry["name"] for entry in faces} == {"faker_000", "faker_001", "house_002", "house_003"}


def test_report_has_every_part(measured):
    report = (measured[1] / "out" / "report.md").read_text()
    for title in ("Floors", "Quality", "By source set", "Choice of the defaults"):
        assert f"## {title}" in report
    assert "| severe | **default: 2 steps, fidelity 0.5** |" in report
    assert "| severe | faker | 2 | degraded input |" in report
    assert "| severe: share of faces nearer than the input | - | at least 0.75 | **FAIL** |" in report


def test_pictures_are_written(measured):
    out = measured[1] / "out"
    sizes = {path.name: size_of(path) for path in out.glob("*.png")}
    assert set(sizes) == {"sheet_moderate.png", "sheet_severe.png", "sheet_vae.png", "perception_distortion.png"}
    assert sizes["sheet_severe.png"] == (6 + 5 * (192 + 6), 26 + 2 * (192 + 26))


def test_model_card_says_what_was_measured(measured, tmp_path):
    evaluation, root, _ = measured
    results, manifest = results_of(evaluation), read_manifest(root / "bundle")
    card = tmp_path / "docs" / "CARD.md"
    write_model_card(results, manifest, card, bundle_bytes=bundle_size_bytes(root / "bundle", manifest))
    write_card_pictures(evaluation, results, card.parent / "images")
    text = card.read_text()
    assert "# Model card: tiny 0.0.1" in text
    assert "default is 2 Euler steps and fidelity\n0.5" in text
    assert "- recipe:\n  - steps: 3" in text
    assert "Nothing was trained." in text
    assert "faker 2, house 2" in text
    assert "is\n  not measured (dlib" in text
    assert tables.quality_table(results["rows"]) in text
    assert "$" not in text
    assert "\n\n\n" not in text
    shown = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert all((card.parent / path).is_file() for path in shown)


def test_one_seed_has_no_spread(measured, tmp_path):
    evaluation, root, _ = measured
    results = results_of(dataclasses.replace(evaluation, plan=dataclasses.replace(PLAN, seeds=(0,))))
    assert results["seed_spread"] == {"moderate": None, "severe": None}
    write_model_card(results, read_manifest(root / "bundle"), tmp_path / "CARD.md")
    assert "mean PSNR: not measured, with one seed." in (tmp_path / "CARD.md").read_text()


def test_card_tells_of_the_autoencoder_what_all_variances_together_say(measured, tmp_path):
    evaluation, root, _ = measured
    results = results_of(evaluation)
    row(results, "clean", "vae").update(sharpness=0.85, pooled_sharpness=0.80)
    write_model_card(results, read_manifest(root / "bundle"), tmp_path / "CARD.md")
    assert "The autoencoder keeps 80% of" in (tmp_path / "CARD.md").read_text()


def test_card_shows_generated_people_and_the_astronaut_only(measured, tmp_path):
    evaluation, _, _ = measured
    write_card_pictures(evaluation, results_of(evaluation), tmp_path)
    two_generated_and_two_astronauts = (6 + 5 * (192 + 6), 26 + 4 * (192 + 26))
    assert size_of(tmp_path / "card_sheet.jpg") == two_generated_and_two_astronauts


def test_choice_is_told_with_its_reasons():
    candidate = {"num_steps": 5, "fidelity": 0.3, "sharpness": 0.21, "reason": "at 0.20 severe PSNR is low"}
    none = {"num_steps": 1, "fidelity": None, "sharpness": None, "reason": "at 1.00 it is bad"}
    text = tables.choice_text({"num_steps": 5, "fidelity": 0.3, "candidates": [none, candidate]})
    assert text.splitlines()[0] == "Recommended: default_num_steps 5, default_fidelity 0.3."
    assert "- 1 step: no fidelity holds (at 1.00 it is bad)" in text
    nothing = tables.choice_text({"num_steps": None, "fidelity": None, "candidates": [none]})
    assert nothing.startswith("No blend holds the floors")


def test_sheets_place_pictures_by_row_and_column():
    red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    image = sheet([SheetRow("first", {"a": red, "b": blue}), SheetRow("second", {"a": blue, "b": red})])
    assert image.shape == (26 + 2 * 58, 6 + 2 * 38, 3)
    centres = [image[26 + 58 * y + 16, 6 + 38 * x + 16].tolist() for y in (0, 1) for x in (0, 1)]
    assert centres == [[255, 0, 0], [0, 0, 255], [0, 0, 255], [255, 0, 0]]
    assert sheet([SheetRow("small", {"a": red})], cell_px=16).shape == (26 + 42, 6 + 22, 3)
    with pytest.raises(ValueError, match="at least one row"):
        sheet([])


def test_pictures_are_saved_by_suffix(tmp_path):
    image = np.full((8, 8, 3), 7, np.uint8)
    save(image, tmp_path / "new" / "a.png")
    save(image, tmp_path / "new" / "a.jpg")
    for suffix, kind in (("png", "PNG"), ("jpg", "JPEG")):
        with Image.open(tmp_path / "new" / f"a.{suffix}") as saved:
            assert saved.format == kind
            np.testing.assert_array_equal(saved, image)
