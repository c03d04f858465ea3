"""What a few measured distances tell of all others."""

import numpy as np
import pytest

from evalib.camera import measured
from evalib.camera.measured import correction


def test_of_one_point_the_part_that_is_the_same_everywhere_and_the_part_that_fades_by_hand():
    found = correction(np.array([0.2]), np.array([[0.5, 0.5]]), (1, 1000))
    everywhere, here, noise = 0.4**2, 0.3**2, 0.1**2
    total = everywhere + here + noise
    assert found[0, 0] == pytest.approx(0.2 * (everywhere + here) / total, rel=1e-5)
    assert found[0, -1] == pytest.approx(0.2 * everywhere / total, rel=1e-4)
    one_reach = everywhere + here * np.exp(-0.5)
    assert found[0, 200] == pytest.approx(0.2 * one_reach / total, rel=1e-5)
    assert found.dtype == np.float32


def test_a_world_of_another_size_is_off_by_one_factor():
    found = correction(np.array([-1.6]), np.array([[0.5, 0.5]]), (1, 1000))
    assert np.all((found >= -1.6) & (found < -1.5))


def test_it_is_what_the_joint_distribution_says():
    """Sample the process, and look at the samples that happen to agree with the points."""
    rng = np.random.default_rng(0)
    size, at, error = (1, 8), np.array([[1.5, 0.5], [6.5, 0.5]]), np.array([0.5, -0.1])
    x = np.arange(8) + 0.5
    apart = (x[:, None] - x) / (measured.REACH * 8)
    near = np.linalg.cholesky(np.exp(-(apart**2) / 2) + 1e-9 * np.eye(8))
    n = 400_000
    fields = measured.EVERYWHERE * rng.standard_normal((n, 1))
    fields = fields + measured.HERE * rng.standard_normal((n, 8)) @ near.T
    seen = fields[:, [1, 6]] + measured.NOISE * rng.standard_normal((n, 2))
    agree = np.abs(seen - error).max(1) < 0.05
    assert agree.sum() > 1000
    expected = fields[agree].mean(0)
    np.testing.assert_allclose(correction(error, at, size)[0], expected, atol=0.03)


def test_many_points_outvote_one():
    at = np.array([[0.5 + i / 10, 0.5] for i in range(10)])
    error = np.array([0.3] * 9 + [-0.3])
    found = correction(error, at, (1, 40))
    assert 0.1 < found[0, 0] < 0.3
