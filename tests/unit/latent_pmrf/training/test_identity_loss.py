import copy

import cv2
import dlib
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from latent_pmrf.dlib_models import RECOGNITION, dlib_model
from latent_pmrf.evaluation.card_faces import astronaut as aligned_astronaut
from latent_pmrf.evaluation.identity import FaceIdentifier, identity_distance
from latent_pmrf.training.device import to_device
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.estimator import EstimatorStage
from latent_pmrf.training.identity import CHIP_SIZE_PX, IdentityLoss, _chip_grid, load_face_embedder
from tests.tiny_stages import UNET, validated

CHIP = (CHIP_SIZE_PX, CHIP_SIZE_PX)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loss():
    return IdentityLoss(load_face_embedder())


def tensor(image):
    return torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(
    "chip",
    [
        cv2.resize(astronaut()[0:220, 120:340], CHIP),
        np.random.default_rng(0).integers(0, 256, (*CHIP, 3), dtype=np.uint8),
        np.zeros((*CHIP, 3), np.uint8),
    ],
    ids=["face", "noise", "black"],
)
def test_embeddings_are_those_of_dlib(loss, chip):
    expected = dlib.face_recognition_model_v1(str(dlib_model(RECOGNITION))).compute_face_descriptor(chip)
    exact = copy.deepcopy(loss.embedder).double()  # in float32 it is 3e-6 by itself where AVX-512 adds up
    np.testing.assert_allclose(exact(tensor(chip).double())[0], np.asarray(expected), atol=2e-6)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.dat"
    path.write_bytes(dlib_model(RECOGNITION).read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"other\.dat has no tensor of the shape \(9248, 1, 1, 1\)"):
        load_face_embedder(path)


@pytest.mark.parametrize("side", [256, 512])
def test_distances_are_near_to_those_that_evaluation_measures_by_landmarks(loss, side):
    clean = aligned_astronaut(side).clean
    blurred = cv2.GaussianBlur(clean, (0, 0), side / 64)
    identifier = FaceIdentifier(num_landmarks=5)
    measured = identity_distance(identifier.sign(clean), identifier.sign(blurred))
    images = [tensor(image).numpy() for image in (blurred, clean)]
    assert measured > 0.2
    assert loss.distances(*images)[0] == pytest.approx(measured, rel=0.2)


def test_autocast_neither_moves_the_chips_nor_rounds_a_distance(loss):
    clean = tensor(aligned_astronaut(256).clean).numpy()
    jitter = torch.tensor([[0.3, -0.7, 0.9]])
    grid, distance = _chip_grid(jitter), loss.distances(clean, clean[..., ::-1].copy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(_chip_grid(jitter), grid, atol=0, rtol=0)
        np.testing.assert_array_equal(loss.distances(clean, clean[..., ::-1].copy()), distance)


def test_the_loss_is_the_squared_distance_and_reaches_the_prediction_alone(loss):
    x = tensor(aligned_astronaut(128).clean).repeat(2, 1, 1, 1)
    prediction = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).requires_grad_()
    value = loss(prediction, x, seed=1)
    value.backward()
    assert prediction.grad.abs().sum() > 0
    assert not [parameter for parameter in loss.parameters() if parameter.requires_grad]
    assert loss(x, x, seed=1) == 0
    distances = loss.distances(prediction.detach().clamp(0, 1).numpy(), x.numpy())
    assert value.item() == pytest.approx(np.square(distances).mean(), rel=0.3)
    # The placement of the chips is drawn by the seed and by nothing else.
    assert loss(prediction, x, seed=1) == value
    assert loss(prediction, x, seed=2) != value


def test_over_counts_every_face_as_a_share_of_its_own_beginning(loss):
    clean = tensor(aligned_astronaut(256).clean)
    far, near = 0.3 * clean + 0.7 * clean.flip(2), 0.9 * clean
    both, began = torch.cat([clean, clean]), torch.cat([far, near])
    assert loss.over(began, began, both, 1).item() == pytest.approx(
        sum((square / (square + 0.01)).item() for square in loss._squares([began], both, 1)[0]) / 2
    )
    assert loss.over(began, both, both, 1).item() == pytest.approx(0, abs=1e-6)
    began.requires_grad_()
    prediction = far.clone().requires_grad_()
    loss.over(began[:1], prediction, clean, 1).backward()
    assert began.grad is None
    assert prediction.grad.abs().max() > 0


def test_following_its_gradient_brings_the_face_nearer(loss):
    x = tensor(aligned_astronaut(128).clean)
    y = tensor(cv2.GaussianBlur(aligned_astronaut(128).clean, (0, 0), 2))
    before = loss.distances(y.numpy(), x.numpy())[0]
    prediction = y.clone().requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=3e-3)
    for step in range(15):
        optimizer.zero_grad()
        loss(prediction, x, seed=step).backward()
        optimizer.step()
    assert loss.distances(prediction.detach().clamp(0, 1).numpy(), x.numpy())[0] < 0.7 * before


def test_an_estimator_is_trained_with_it(pairs, validation, loss):
    with pytest.raises(ValueError, match="identity_weight needs an identity loss"):
        EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, identity_weight=0.1)
    plain = EstimatorStage(UNET, pairs, 2, seed=1, validation=validation)
    stage = EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, identity_weight=0.1, identity=loss)
    y, x = batch = to_device(stage.batch(0), CPU)
    value, scalars = stage.loss(lambda image: image, batch, 0)
    alone, _ = plain.loss(lambda image: image, batch, 0)
    assert scalars["identity"] == loss(y, x, draw_seed(1, 0)) > 0
    assert value.item() == pytest.approx((alone + 0.1 * scalars["identity"]).item())
    assert stage.info() == {"identity_weight": 0.1}
    # An untrained estimator gives its input back: as far from the clean face as the degraded one, and none is nearer.
    found = validated(stage)
    assert found["severe_identity"] > found["moderate_identity"] > 0
    assert found["severe_nearer"] == 0
    assert not [name for name in validated(plain) if "identity" in name]
