import numpy as np
import pytest

from latent_pmrf.evaluation.identity import (
    FaceIdentifier,
    Signature,
    angle_deg,
    identity_distance,
    landmark_distance_px,
)
from latent_pmrf.evaluation.scoring import Scorer, ScoreTask


def test_distances_are_euclidean():
    one = Signature(np.zeros(128), np.zeros((68, 2)))
    other = Signature(np.full(128, 0.05), np.tile([3.0, 4.0], (68, 1)))
    assert identity_distance(one, other) == pytest.approx(0.05 * 128**0.5)
    assert landmark_distance_px(one, other) == pytest.approx(5)


@pytest.mark.parametrize(("other", "degrees"), [((2, 0), 0), ((3, 3), 45), ((0, 0.1), 90), ((-1, 0), 180)])
def test_angles_forget_the_lengths(other, degrees):
    assert angle_deg(np.array([1.0, 0.0]), np.array(other, float)) == pytest.approx(degrees)


def test_an_angle_needs_directions():
    with pytest.raises(ValueError, match="zeros"):
        angle_deg(np.ones(3), np.zeros(3))


@pytest.fixture(scope="module")
def identifier():
    return FaceIdentifier()


@pytest.fixture(scope="module")
def clean(identifier, face_512):
    return identifier.sign(face_512.clean)


def test_more_damage_is_further_from_the_person(identifier, clean, face_512):
    moderate, severe = (identifier.sign(face_512.degraded[level]) for level in ("moderate", "severe"))
    assert identity_distance(clean, clean) == 0
    assert 0.05 < identity_distance(moderate, clean) < identity_distance(severe, clean)
    assert landmark_distance_px(moderate, clean) < landmark_distance_px(severe, clean) < 30


def test_the_size_of_the_crop_hardly_matters(identifier, clean, face_512):
    half = identifier.sign(np.ascontiguousarray(face_512.clean[::2, ::2]))
    assert identity_distance(half, clean) < 0.3
    assert landmark_distance_px(half, clean) < 5


def test_landmarks_lie_on_the_aligned_face(clean):
    eyes = clean.landmarks[36:42].mean(0), clean.landmarks[42:48].mean(0)
    assert eyes[0] == pytest.approx((193, 240), abs=20)
    assert eyes[1] == pytest.approx((319, 240), abs=20)


def test_five_landmarks_are_the_eyes_and_the_nose(face_512):
    points = FaceIdentifier(num_landmarks=5).sign(face_512.clean).landmarks
    assert points.shape == (5, 2)
    assert points[:4].mean(0) == pytest.approx((256, 240), abs=20)
    with pytest.raises(ValueError, match="5 or 68"):
        FaceIdentifier(num_landmarks=98)


@pytest.mark.parametrize("image", [np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)])
def test_what_is_no_aligned_crop_is_refused(identifier, image):
    with pytest.raises(ValueError, match="aligned crop"):
        identifier.sign(image)


def test_scores_hold_identity_where_it_is_asked_for(face_512):
    with Scorer(1) as scorer:
        signature = scorer.sign([face_512.clean])[0]
        tasks = [ScoreTask(face_512.clean, face_512.clean, None, signature), ScoreTask(face_512.clean, face_512.clean)]
        with_it, without = scorer.score(tasks)
    assert (with_it.identity, with_it.landmark_px) == (0, 0)
    assert (without.identity, without.landmark_px) == (None, None)
