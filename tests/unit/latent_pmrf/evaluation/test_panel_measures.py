import numpy as np
import pytest

from latent_pmrf.evaluation.identity import FaceIdentifier
from latent_pmrf.evaluation.panel import Panel, PanelScorer, measure_panel
from latent_pmrf.evaluation.scoring import ScoreTask, score


@pytest.fixture(scope="module")
def panel(face_512):
    pictures = (face_512.degraded["severe"], face_512.degraded["moderate"], face_512.clean)
    severe, moderate, clean = (picture[::2, ::2] for picture in pictures)
    return Panel(np.stack([severe, moderate, clean]), moderate, clean)


def test_scores_are_those_of_each_picture_alone(panel):
    scores = measure_panel(panel)
    for column, output in enumerate(panel.outputs):
        alone = score(ScoreTask(output, panel.clean, panel.estimate))
        for key in ("psnr", "ssim", "ms_ssim", "sharpness", "ind_rmse"):
            assert scores[key][column] == pytest.approx(getattr(alone, key)), key
    assert scores["sharpness"] == pytest.approx([value / scores["detail"][2] for value in scores["detail"]], rel=1e-5)


def test_identity_is_an_angle_to_the_clean_face(panel):
    scores = measure_panel(panel, FaceIdentifier(num_landmarks=5))
    severe, moderate, clean = scores["identity_deg"]
    assert 90 > severe > moderate > 3 > clean == pytest.approx(0, abs=1e-3)
    assert scores["landmark_px"][2] == 0 < scores["landmark_px"][0]


def test_without_a_clean_face_only_what_needs_none(panel):
    assert set(measure_panel(Panel(panel.outputs, panel.estimate, None))) == {"detail", "ind_rmse"}
    assert set(measure_panel(Panel(panel.outputs, None, None))) == {"detail"}


def test_small_faces_have_no_ms_ssim(panel):
    small = Panel(panel.outputs[:, :175, :175], None, panel.clean[:175, :175])
    assert "ms_ssim" not in measure_panel(small)
    assert "ms_ssim" in measure_panel(panel)


@pytest.mark.slow
def test_processes_give_the_same_panels_in_order(panel):
    panels = [panel, Panel(panel.outputs[::-1].copy(), None, panel.clean)]
    with PanelScorer(1, None) as here, PanelScorer(2, None) as there:
        assert there.measure(panels) == here.measure(panels)
