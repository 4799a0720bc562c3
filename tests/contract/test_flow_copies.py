"""Training and serving each have the few lines of the flow; here they are held together."""

import numpy as np
import pytest

from latent_pmrf.evaluation import bundle
from latent_pmrf.flow.solver import euler, time_grid
from service.sampling.noise import source_noise
from service.sampling.ode import euler_step, times


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 25])
def test_the_time_grids_are_one(num_steps):
    assert times(range(num_steps), [num_steps] * num_steps).tolist() == np.float32(time_grid(num_steps)).tolist()


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_the_solvers_end_at_the_same_bits(num_steps):
    x_0 = np.random.default_rng(0).standard_normal((2, 4, 8, 8), dtype=np.float32)

    def velocity(x_t, t):
        return np.sin(3 * x_t) + t.reshape(-1, 1, 1, 1)

    expected = euler(lambda x_t, t: velocity(x_t, np.full(2, t, np.float32)), x_0, num_steps)
    x_t = x_0
    for k in range(num_steps):
        x_t = euler_step(x_t, velocity(x_t, times([k, k], [num_steps] * 2)), [num_steps] * 2)
    assert x_t.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("seed", "face_index"), [(0, 0), (1234, 7), (2**63 - 1, 63)])
def test_the_noise_is_the_same_to_the_bit(seed, face_index):
    shape = (48, 32, 32)
    assert source_noise(shape, seed, face_index).tobytes() == bundle.source_noise(shape, seed, face_index).tobytes()
