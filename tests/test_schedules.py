"""Schedules: their ends, their course, and what is no schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairl_sk import ConstantSchedule, CosineSchedule, ExponentialSchedule, LinearSchedule
from fairl_sk.learning.schedules import schedule_values

number = st.floats(-100, 100)


@given(number, number, st.integers(2, 50))
@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
def test_schedules_run_from_start_to_stop_without_turning(schedule, start, stop, n_rounds):
    values = schedule_values(schedule(start, stop), n_rounds, name="failure_weight")
    assert values.shape == (n_rounds,)
    np.testing.assert_allclose(values[[0, -1]], [start, stop], atol=1e-12)
    assert (np.diff(values) * (stop - start) >= -1e-9).all()


@given(st.floats(0, 100), st.floats(0, 20))
def test_exponential_decay_loses_the_same_share_in_every_round(start, decay):
    values = schedule_values(ExponentialSchedule(start, decay), 11, name="failure_weight")
    np.testing.assert_allclose(values, start * np.exp(-decay * np.arange(11) / 10))


@pytest.mark.parametrize("schedule", [3, np.float64(3), ConstantSchedule(3.0), lambda progress: 3.0])
def test_a_number_is_a_constant_schedule(schedule):
    np.testing.assert_array_equal(schedule_values(schedule, 4, name="failure_weight"), [3, 3, 3, 3])


def test_a_callable_reads_the_progress():
    np.testing.assert_allclose(schedule_values(lambda progress: progress**2, 3, name="failure_rate"), [0, 0.25, 1])
    np.testing.assert_array_equal(schedule_values(lambda progress: progress, 1, name="failure_rate"), [0])


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
