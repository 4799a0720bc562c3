import numpy as np
import pytest

from latent_pmrf.evaluation.scoring import PSNR_CAP_DB, BlendTask, Scorer, ScoreTask, blend, score, score_blends


@pytest.fixture(scope="module")
def face(face_512):
    return face_512.clean[128:384, 128:384]


@pytest.fixture(scope="module")
def damaged(face):
    noise = np.random.default_rng(0).normal(0, 10, face.shape)
    return np.clip(face + noise, 0, 255).astype(np.uint8)


def test_blend_is_the_service_s_fidelity():
    sample, estimate = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 201, np.uint8)
    assert [int(blend(sample, estimate, fidelity)[0, 0, 0]) for fidelity in (0, 0.25, 1)] == [100, 125, 201]


def test_perfect_pictures_score_perfectly(face):
    scores = score(ScoreTask(face, face, face))
    assert (scores.psnr, scores.ind_rmse, scores.colour_shift, scores.flat_grain) == (PSNR_CAP_DB, 0, 0, 0)
    assert (scores.ssim, scores.ms_ssim, scores.sharpness) == pytest.approx((1, 1, 1))
    assert (scores.identity, scores.landmark_px) == (None, None)


def test_units_are_eight_bit_levels(face):
    calm = (face // 2 + 30).astype(np.uint8)
    scores = score(ScoreTask(calm + 5, calm))
    assert scores.colour_shift == pytest.approx(5, abs=1e-3)
    assert scores.ind_rmse is None
    assert scores.psnr == pytest.approx(20 * np.log10(255 / 5), abs=1e-3)


def test_blends_lie_between_sample_and_estimate(face, damaged):
    scores = score_blends(BlendTask(damaged, face, face, (0.0, 0.5, 1.0)))
    alone = score(ScoreTask(damaged, face))
    assert (scores[0].psnr, scores[0].ssim, scores[0].sharpness) == (alone.psnr, alone.ssim, alone.sharpness)
    assert scores[0].psnr < scores[1].psnr < scores[2].psnr == PSNR_CAP_DB
    assert scores[1].psnr == pytest.approx(scores[0].psnr + 6, abs=0.3)


@pytest.mark.slow
def test_processes_give_the_same_scores_in_order(face, damaged):
    tasks = [ScoreTask(damaged, face), ScoreTask(face, face), ScoreTask(face[::-1], face)]
    blends = [BlendTask(damaged, face, face, (0.0, 1.0))]
    with Scorer(1, with_identity=False) as here, Scorer(2, with_identity=False) as there:
        assert here.sign([face]) == there.sign([face]) == [None]
        assert list(here.score(tasks)) == list(there.score(tasks))
        assert list(here.score_blends(blends)) == list(there.score_blends(blends))


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="num_workers"):
        Scorer(0)
