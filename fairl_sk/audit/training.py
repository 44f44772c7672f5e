"""What several aligned models learned, by step, as a picture. `report` writes it, and the page shows it."""

import numpy as np

from ..plot import COLORS
from .models import step_number


def draw_steps(steps):
    """Draw what the alignment learned, by step, with 95 % intervals.

    Parameters
    ----------
    steps : list of dict
        Of `measure_alignment`: the base model and at least two aligned ones.

    Returns
    -------
    figure : matplotlib Figure
    """
    import matplotlib.pyplot as plt

    panels = {
        "times_noise": "spread,\ntimes the noise\n(range over its draws)",
        "kl": "KL from the base,\nnats an output",
        "reference_share": "share that the\nreference explains",
        "desirable": "desirable outputs",
        "distance": "distance from\nthe last reward",
    }
    panels = {name: label for name, label in panels.items() if any(step.get(name) is not None for step in steps)}
    numbers = [step_number(step["step"]) for step in steps[1:]]
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(steps)))
    place = dict(zip((step["step"] for step in steps), [0, *numbers], strict=True))
    figure, axes = plt.subplots(len(panels), 1, figsize=(7, 1.7 * len(panels)), sharex=True, layout="constrained")
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        found = [(place[step["step"]], *_ends(step, name)) for step in steps if step.get(name) is not None]
        at, value, low, high = map(np.array, zip(*sorted(found), strict=True))
        ax.errorbar(at, value, (value - low, high - value), marker=".", capsize=2, color=COLORS[0])
        ax.set(ylabel=label, ylim=(min(0, low.min()), None))
    axes[-1].set(xlabel="step of the training (0: the base model)")
    figure.suptitle("What the alignment learned, by step, with 95% intervals")
    return figure


def _ends(step, name):
    """A figure of a step with the ends of its interval."""
    value = step[name]
    if name == "times_noise":
        return value, step["spread"] / step["null_high"], step["spread"] / step["null_low"]
    if hasattr(value, "estimate"):
        return value.estimate, value.low, value.high
    error = 1.96 * step["kl_error"] if name == "kl" else 0.0
    return value, value - error, value + error
