"""The displays: what is drawn is what was measured, under the right names."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from fairl_sk.plot import HistoryDisplay, MarginDisplay


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def outlines(display):
    """(name, heights, edges) of each histogram."""
    return [(patch.get_label(), *patch.get_data()[:2]) for patch in display.ax_.patches]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_nothing_is_clipped(figure):
    """What is drawn lies within the figure."""
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


# ------------------------------------------------------------------------------------------------------ margins


def test_margins_of_several_rewards(rng):
    margins = {"first": rng.normal(1, 1, 400), "second": rng.normal(0, 5, 400), "third": -rng.random(400)}
    display = MarginDisplay(margins).plot()
    drawn = outlines(display)
    assert [name for name, *_ in drawn] == legend(display.ax_)
    for (label, heights, edges), (name, values) in zip(drawn, margins.items(), strict=True):
        assert label == f"{name} ({(values <= 0).mean():.1%} at or below 0)"
        assert heights.sum() == 400  # tails included
        np.testing.assert_array_equal(edges, drawn[0][2])
        left = heights[edges[1:] < 1e-6].sum()
        assert left == (values <= 0).sum()  # no bin lies on both sides of 0
    assert display.ax_.get_xlabel() == "margin R(preferred) - R(other), in standard deviations"
    assert display.ax_.get_ylabel() == "pairs"
    assert display.figure_ is display.ax_.figure
    assert_nothing_is_clipped(display.figure_)
    styles = {(patch.get_edgecolor(), patch.get_linestyle()) for patch in display.ax_.patches}
    assert len(styles) == 3


def test_many_rewards_with_long_names_are_told_apart(rng):
    names = [f"a reward with a name of more than a few words, number {n}" for n in range(7)]
    display = MarginDisplay({name: rng.normal(size=50) for name in names}).plot()
    assert len({(patch.get_edgecolor(), patch.get_linestyle()) for patch in display.ax_.patches}) == 7
    assert_nothing_is_clipped(display.figure_)


def test_margins_are_in_their_own_standard_deviations(rng):
    values = rng.normal(1, 1, 300)
    display = MarginDisplay({"small": values, "large": 1000 * values}).plot()
    (_, small, _), (_, large, _) = outlines(display)
    np.testing.assert_array_equal(small, large)
    heights, edges = outlines(MarginDisplay({"one": values}).plot(bins=20))[0][1:]
    assert len(heights) in (20, 21, 22)
    expected = np.histogram(np.clip(values / values.std(), edges[0], edges[-1]), edges)[0]
    np.testing.assert_array_equal(heights, expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 1e-200, -1e200])
def test_constant_margins_stay_on_their_side(value):
    """np.std of equal numbers is not always 0."""
    display = MarginDisplay({"constant": np.full(7, value), "tied": np.zeros(7)}).plot()
    for (label, heights, edges), right in zip(outlines(display), (value > 0, False), strict=True):
        assert heights.sum() == 7
        assert (heights[edges[:-1] >= 0].sum() == 7) == right
        assert ("0.0% at" in label) == right or "100.0% at" in label


def test_from_predictions(rng):
    decision, y = rng.normal(0.5, 1, 100), rng.integers(2, size=100)
    first = MarginDisplay.from_predictions(None, decision, name="mine")
    np.testing.assert_array_equal(first.margins["mine"], decision)
    oriented = MarginDisplay.from_predictions(y, decision)
    np.testing.assert_array_equal(oriented.margins["reward"], np.where(y == 1, decision, -decision))
    named = MarginDisplay.from_predictions(np.array(["no", "yes"])[y], list(decision))
    np.testing.assert_array_equal(named.margins["reward"], oriented.margins["reward"])
    with pytest.raises(ValueError, match="3 labels for 100 rows"):
        MarginDisplay.from_predictions([0, 1, 0], decision)


def test_from_estimator(preferences, text_features, detox):
    X, y = preferences.data, preferences.target
    fitted = MaxEntropyIRL(random_state=0).fit(X, y)
    display = MarginDisplay.from_estimator(fitted, X, y)
    assert list(display.margins) == ["MaxEntropyIRL"]
    misordered = (fitted.predict(X) != y).mean()
    assert legend(display.ax_) == [f"MaxEntropyIRL ({misordered:.1%} at or below 0)"]
    plain = MarginDisplay.from_estimator(fitted, X)
    np.testing.assert_array_equal(plain.margins["MaxEntropyIRL"], fitted.decision_function(X))
    outputs = MarginDisplay.from_estimator(fitted, X[:, 0], y, name="outputs")
    assert outputs.margins["outputs"].shape == (len(X),)
    pipeline = make_pipeline(text_features, MaxMarginIRL(random_state=0)).fit(detox.data, detox.target)
    texts = MarginDisplay.from_estimator(pipeline, detox.data, detox.target)
    assert sum(outlines(texts)[0][1]) == len(detox.data)


def test_axes_of_ones_own(rng):
    figure, (left, right) = plt.subplots(1, 2)
    left.set_title("A title")
    display = MarginDisplay({"one": rng.normal(size=90)}).plot(ax=left)
    assert display.ax_ is left
    assert display.figure_ is figure
    assert not right.patches
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    assert not left.get_legend().get_window_extent().overlaps(left.title.get_window_extent())
    again = MarginDisplay.from_predictions(None, rng.normal(size=90), ax=right)
    assert again.ax_ is right


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ({}, "Got no margins"),
        ({"empty": []}, r"'empty' of shape \(0,\)"),
        ({"nan": [1.0, np.nan]}, "1 of them not finite"),
        ({"rewards": np.zeros((5, 2))}, r"'rewards' of shape \(5, 2\).*Expected"),
    ],
)
def test_no_margins(margins, message):
    with pytest.raises(ValueError, match=message):
        MarginDisplay(margins).plot()
    assert not plt.get_fignums()


# ------------------------------------------------------------------------------------------------------ history

FITS = {
    "max margin": MaxMarginIRL(random_state=0),
    "max entropy": MaxEntropyIRL(random_state=0),
    "failure aware": FailureAwareIRL(random_state=0),
    "hidden": FailureAwareIRL("max_entropy", hidden_layer_sizes=(8,), max_iter=6, random_state=0),
    "no failures sampled": FailureAwareIRL(failure_rate=0, random_state=0),
    "one round": FailureAwareIRL(max_iter=1, tol=0, random_state=0),
}


@pytest.mark.parametrize("case", FITS)
def test_history_shows_every_round(preferences, case):
    fitted = clone(FITS[case]).fit(preferences.data, preferences.target)
    display = HistoryDisplay.from_estimator(fitted)
    column = {name: np.array([row[name] for row in fitted.history_]) for name in fitted.history_[0]}
    sampled = column["n_sampled"] > 0
    assert sampled.any() == (case in ("failure aware", "hidden", "one round"))
    everything = slice(None)
    expected = [
        [("loss_base", everything), ("loss_failure", sampled)][: 1 + sampled.any()],
        [("n_failures", everything), ("n_sampled", everything)],
        [("margin_q50", everything), ("failure_threshold", everything)],
    ]
    for ax, names in zip(display.axes_, expected, strict=True):
        assert len(ax.lines) == len(names)
        for line, (name, rows) in zip(ax.lines, names, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), column["round"][rows])
            np.testing.assert_array_equal(line.get_ydata(), column[name][rows])
            visible = len(line.get_xdata()) > 1 or line.get_marker() not in (None, "None", "")
            assert visible, name
    (band,) = display.axes_[2].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == column["margin_q05"].min()
    assert heights.max() == column["margin_q95"].max()
    assert [ax.get_ylabel() for ax in display.axes_] == ["mean loss", "pairs", "margin, units of reward"]
    assert display.axes_[2].get_xlabel() == "round"
    assert legend(display.axes_[0]) == ["all rows, base path", "sampled failures, both paths"][: 1 + sampled.any()]
    assert legend(display.axes_[1]) == ["failures", "sampled"]
    assert legend(display.axes_[2]) == ["median margin", "5 % to 95 %", "failure threshold"]
    assert all(tick == int(tick) for tick in display.axes_[2].get_xticks())
    assert_nothing_is_clipped(display.figure_)


def test_history_on_axes_of_ones_own(preferences):
    fitted = FailureAwareIRL(random_state=0).fit(preferences.data, preferences.target)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    display = HistoryDisplay(fitted.history_).plot(axes=list(axes))
    assert list(display.axes_) == list(axes)
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=r"axes of shape \(2,\). Expected 3 matplotlib Axes"):
        HistoryDisplay(fitted.history_).plot(axes=axes[:2])


def test_no_history():
    with pytest.raises(ValueError, match="history without rounds.*fit it first"):
        HistoryDisplay([]).plot()
    with pytest.raises(AttributeError, match="history_"):
        HistoryDisplay.from_estimator(MaxMarginIRL())


def test_pictures_are_drawn_without_a_screen(preferences, tmp_path):
    fitted = FailureAwareIRL(random_state=0).fit(preferences.data, preferences.target)
    for display in (
        MarginDisplay.from_estimator(fitted, preferences.data, preferences.target),
        HistoryDisplay.from_estimator(fitted),
    ):
        for suffix in ("png", "pdf", "svg"):
            path = tmp_path / f"{type(display).__name__}.{suffix}"
            display.figure_.savefig(path)
            assert path.stat().st_size > 3000
