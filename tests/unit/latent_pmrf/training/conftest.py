import numpy as np
import pytest

from latent_pmrf.data.datasets import Augmentation, FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.data.validation import ValidationSet
from tests.training_files import SIDE_PX, crops


@pytest.fixture(scope="module")
def validation():
    faces = np.stack(crops(9)[6:]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return [
        ValidationSet(name, faces, np.clip(faces + shift, 0, 1)) for name, shift in (("moderate", 0.1), ("severe", 0.3))
    ]


@pytest.fixture
def pairs():
    return FacePairs(crops(6), SIDE_PX, DegradationRange(), Augmentation())
