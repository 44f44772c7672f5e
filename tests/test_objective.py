"""Losses against closed forms and finite differences; schedules at their ends."""

import numpy as np
import pytest
import torch
from fairl_sk.learning.objective import hinge_loss, logistic_loss, schedule_values
from sklearn.base import clone

from fairl_sk import ConstantSchedule, CosineSchedule, ExponentialSchedule, LinearSchedule

MARGINS = torch.linspace(-3, 3, 241, dtype=torch.float64)


def test_hinge_is_the_closed_form():
    loss, slope, _ = hinge_loss(MARGINS, 1.0)
    np.testing.assert_allclose(loss, np.maximum(0, 1 - MARGINS.numpy()))
    np.testing.assert_array_equal(slope, -(MARGINS < 1).double())


def test_logistic_is_the_closed_form():
    loss, slope, _ = logistic_loss(MARGINS, 0.5)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-MARGINS.numpy() / 0.5)))
    assert -1 / 0.5 < slope.min() < slope.max() < 0


def test_rounding_the_corner_lowers_the_hinge_by_at_most_half_the_width():
    plain, rounded = hinge_loss(MARGINS, 1.0)[0], hinge_loss(MARGINS, 1.0, 0.4)[0]
    assert (rounded <= plain + 1e-12).all()
    assert 0.19 < (plain - rounded).max() <= 0.2 + 1e-12


@pytest.mark.parametrize("loss", [lambda m: hinge_loss(m, 1.0, 0.7), lambda m: logistic_loss(m, 0.6)])
def test_slopes_and_curvatures_are_derivatives(loss):
    step = 1e-6
    points = MARGINS + 0.0123  # off the hinge's two joints
    value, slope, curvature = loss(points)
    np.testing.assert_allclose((loss(points + step)[0] - loss(points - step)[0]) / (2 * step), slope, atol=1e-6)
    np.testing.assert_allclose((loss(points + step)[1] - loss(points - step)[1]) / (2 * step), curvature, atol=1e-6)
    assert (value >= 0).all()
    assert (curvature >= 0).all()


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        (ConstantSchedule(3.0), 3.0, 3.0),
        (LinearSchedule(0.2, 0.0), 0.2, 0.0),
        (ExponentialSchedule(10.0, 5.0), 10.0, 10 * np.exp(-5)),
        (CosineSchedule(2.0, 1.0), 2.0, 1.0),
        (4, 4.0, 4.0),
        (np.float64(4), 4.0, 4.0),
        (lambda progress: 1 - progress, 1.0, 0.0),
    ],
)
def test_schedules_run_from_first_to_last(schedule, first, last):
    values = schedule_values(schedule, 11, name="failure_weight")
    assert values.shape == (11,)
    np.testing.assert_allclose([values[0], values[-1]], [first, last], atol=1e-15)
    assert (np.diff(values) * (last - first) >= 0).all()


def test_schedules_are_cloned_and_reached_by_name():
    schedule = clone(ExponentialSchedule(decay=2.0)).set_params(start=7.0)
    assert schedule.get_params() == {"decay": 2.0, "start": 7.0}


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda progress: np.nan, ValueError, r"failure_rate=.*gives nan at progress 0 \(round 0\)"),
        (lambda progress: "many", ValueError, "gives 'many'"),
        (lambda progress: np.float64(1.5), ValueError, r"gives 1\.5 at"),
        (LinearSchedule(0.5, -0.5), ValueError, r"gives -0.09.* \(round 6\).*in \[0, 1\]"),
        (2.0, ValueError, "gives 2.0"),
        ("exponential", TypeError, "failure_rate='exponential'.*Expected a number, a schedule"),
        (ExponentialSchedule, TypeError, "Expected a number, a schedule"),
    ],
)
def test_bad_schedules_are_named(schedule, error, message):
    with pytest.raises(error, match=message):
        schedule_values(schedule, 11, name="failure_rate", minimum=0, maximum=1)
