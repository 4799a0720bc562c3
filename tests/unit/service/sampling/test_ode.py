import numpy as np
import pytest

from service.sampling.ode import euler_step, times


def test_each_row_has_its_own_time():
    found = times([0, 1, 3, 9], [1, 2, 4, 10])
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.0, 0.5, 0.75, 0.9])


def test_each_row_takes_a_step_of_its_own_length():
    x_t = np.ones((3, 2, 2, 2), np.float32)
    stepped = euler_step(x_t, 2 * x_t, [1, 2, 8])
    assert stepped.dtype == np.float32
    assert stepped[:, 0, 0, 0].tolist() == [3.0, 2.0, 1.25]
    assert (x_t == 1).all()


@pytest.mark.parametrize("num_steps", [1, 2, 25])
def test_a_constant_velocity_is_integrated_exactly(num_steps):
    x_t = np.zeros((1, 1, 4, 4), np.float32)
    for _ in range(num_steps):
        x_t = euler_step(x_t, np.full_like(x_t, 0.75), [num_steps])
    np.testing.assert_allclose(x_t, 0.75, rtol=1e-6)


def test_the_error_of_a_quadratic_velocity_is_of_first_order():
    def end(num_steps):
        x_t = np.zeros((1, 1, 1, 1), np.float32)
        for k in range(num_steps):
            x_t = euler_step(x_t, 3 * times([k], [num_steps]).reshape(1, 1, 1, 1) ** 2, [num_steps])
        return float(x_t.squeeze())

    errors = [1 - end(num_steps) for num_steps in (10, 20, 40)]
    assert errors == pytest.approx([3 / (2 * K) - 1 / (2 * K * K) for K in (10, 20, 40)], abs=1e-5)
