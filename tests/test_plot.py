"""The displays: what is drawn is what was measured, under the right names."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, MultiObjectiveIRL, PairTransformer
from fairl_sk.datasets import make_multi_preferences
from fairl_sk.metrics import pareto_front
from fairl_sk.pairs import stack_outputs
from fairl_sk.plot import HistoryDisplay, MarginDisplay, ParetoDisplay


def histograms(display):
    """(label, heights, edges) of each histogram."""
    return [(patch.get_label(), *patch.get_data()[:2]) for patch in display.ax_.patches]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_nothing_is_clipped(figure):
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= 0 and drawn.x1 <= width and drawn.y1 <= height


# ------------------------------------------------------------------------------------------------------ margins


def test_every_margin_is_drawn_on_its_side_of_0(rng):
    margins = {"first": rng.normal(1, 1, 400), "second": rng.normal(0, 5, 400), "third": -rng.random(400)}
    margins |= {f"a reward with a name of more than a few words, number {n}": rng.normal(size=400) for n in range(4)}
    display = MarginDisplay(margins).plot()
    drawn = histograms(display)
    assert [label for label, *_ in drawn] == legend(display.ax_)
    for (label, heights, edges), (name, values) in zip(drawn, margins.items(), strict=True):
        assert label == f"{name} ({(values <= 0).mean():.1%} wrong)"
        assert heights.sum() == 400  # tails included
        np.testing.assert_array_equal(edges, drawn[0][2])
        assert heights[edges[1:] < 1e-6].sum() == (values <= 0).sum()  # no bin lies on both sides of 0
    assert display.ax_.get_xlabel() == "margin R(preferred) - R(other), in standard deviations"
    assert len({(patch.get_edgecolor(), patch.get_linestyle()) for patch in display.ax_.patches}) == len(margins)
    assert_nothing_is_clipped(display.figure_)


def test_margins_are_in_their_own_standard_deviations(rng):
    values = rng.normal(1, 1, 300)
    (_, small, edges), (_, large, _) = histograms(MarginDisplay({"small": values, "large": 1000 * values}).plot())
    np.testing.assert_array_equal(small, large)
    expected = np.histogram(np.clip(values / values.std(), edges[0], edges[-1]), edges)[0]
    np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 1e-200, -1e200])
def test_constant_margins_stay_on_their_side(value):
    """np.std of equal numbers is not always 0."""
    drawn = histograms(MarginDisplay({"constant": np.full(7, value), "tied": np.zeros(7)}).plot())
    for (label, heights, edges), right in zip(drawn, (value > 0, False), strict=True):
        assert heights.sum() == 7
        assert (heights[edges[:-1] >= 0].sum() == 7) == right == ("(0.0% wrong" in label)


def test_margins_of_predictions_are_signed_by_the_preferences(rng):
    decision, y = rng.normal(0.5, 1, 100), rng.integers(2, size=100)
    np.testing.assert_array_equal(MarginDisplay.from_predictions(None, decision, name="mine").margins["mine"], decision)
    for labels in (y, np.array(["no", "yes"])[y]):
        display = MarginDisplay.from_predictions(labels, list(decision))
        np.testing.assert_array_equal(display.margins["reward"], np.where(y == 1, decision, -decision))
    with pytest.raises(ValueError, match="3 labels for 100 rows"):
        MarginDisplay.from_predictions([0, 1, 0], decision)


def test_margins_of_an_estimator(preferences):
    X, y = preferences.data, preferences.target
    fitted = MaxEntropyIRL(random_state=0).fit(X, y)
    display = MarginDisplay.from_estimator(fitted, X, y)
    assert legend(display.ax_) == [f"MaxEntropyIRL ({(fitted.predict(X) != y).mean():.1%} wrong)"]
    outputs = MarginDisplay.from_estimator(fitted, X[:, 0], y, name="outputs")
    assert outputs.margins["outputs"].shape == (len(X),)


def test_margins_on_the_users_axes(rng):
    figure, (left, right) = plt.subplots(1, 2)
    left.set_title("A title")
    display = MarginDisplay({"one": rng.normal(size=90)}).plot(ax=left)
    assert (display.ax_, display.figure_) == (left, figure)
    assert not right.patches and plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    assert not left.get_legend().get_window_extent().overlaps(left.title.get_window_extent())
    assert MarginDisplay.from_predictions(None, rng.normal(size=90), ax=right).ax_ is right


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ({}, "Got no margins"),
        ({"empty": []}, r"'empty' of shape \(0,\)"),
        ({"nan": [1.0, np.nan]}, "1 of them not finite"),
        ({"rewards": np.zeros((5, 2))}, r"'rewards' of shape \(5, 2\).*Expected"),
    ],
)
def test_unfit_margins(margins, message):
    with pytest.raises(ValueError, match=message):
        MarginDisplay(margins).plot()
    assert not plt.get_fignums()


# ------------------------------------------------------------------------------------------------------ history

FITS = {"max entropy": MaxEntropyIRL(random_state=0), "failure aware": FailureAwareIRL(random_state=0)}


@pytest.mark.parametrize("case", [*FITS, "one round"])
def test_every_round_of_a_fit_is_drawn(preferences, case):
    history = FITS.get(case, FITS["failure aware"]).fit(preferences.data, preferences.target).history_
    history = [max(history, key=lambda row: row["n_sampled"])] if case == "one round" else history
    display = HistoryDisplay(history).plot()
    column = {name: np.array([row[name] for row in history]) for name in history[0]}
    sampled = column["n_sampled"] > 0
    assert sampled.any() == (case in ("failure aware", "one round"))
    expected = [
        [("loss_base", slice(None)), ("loss_failure", sampled)][: 1 + sampled.any()],
        [("n_failures", slice(None)), ("n_sampled", slice(None))],
        [("margin_q50", slice(None)), ("failure_threshold", slice(None))],
    ]
    for ax, names in zip(display.axes_, expected, strict=True):
        for line, (name, rows) in zip(ax.lines, names, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), column["round"][rows])
            np.testing.assert_array_equal(line.get_ydata(), column[name][rows])
            assert len(line.get_xdata()) > 1 or line.get_marker() == "."  # one point alone is no line
    (band,) = display.axes_[2].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (column["margin_q05"].min(), column["margin_q95"].max())
    assert [ax.get_ylabel() for ax in display.axes_] == ["mean loss", "pairs", "margin, units of reward"]
    assert legend(display.axes_[0]) == ["base path, all pairs", "both paths, sampled failures"][: 1 + sampled.any()]
    assert all(tick == int(tick) for tick in display.axes_[2].get_xticks())
    assert_nothing_is_clipped(display.figure_)


def test_a_history_without_rounds_is_refused():
    with pytest.raises(ValueError, match="history without rounds.*fit it first"):
        HistoryDisplay([]).plot()
    with pytest.raises(AttributeError, match="history_"):
        HistoryDisplay.from_estimator(MaxMarginIRL())


def test_the_front_and_the_points_are_drawn(rng):
    rewards = rng.normal(size=(50, 2))
    display = ParetoDisplay(rewards, ["helpful", "safe"], {"equal": [0.5, 0.4], "safe": [0, 1]}).plot()
    dots, (front, *points) = display.ax_.collections[0], display.ax_.lines
    np.testing.assert_allclose(dots.get_offsets(), rewards)
    x, y = front.get_data()
    np.testing.assert_array_equal(display.front_, sorted(rewards[pareto_front(rewards)].tolist()))
    assert (np.diff(x) > 0).all() and (np.diff(y) < 0).all() and x[-1] == rewards[:, 0].max()
    np.testing.assert_allclose([point.get_xydata()[0] for point in points], [[0.5, 0.4], [0, 1]])
    assert [display.ax_.get_xlabel(), display.ax_.get_ylabel()] == ["helpful", "safe"]
    assert [text.get_text() for text in display.ax_.get_legend().texts] == ["outputs", "Pareto front", "equal", "safe"]


def test_the_rewards_of_an_estimator_are_drawn_in_standard_deviations():
    data = make_multi_preferences(60, 4, random_state=0)
    model = make_pipeline(PairTransformer(StandardScaler()), MultiObjectiveIRL(share=False))
    model.fit(data.data, data.targets)
    display = ParetoDisplay.from_estimator(model, data.data, objectives=(2, 0))
    expected = (model.decision_function(stack_outputs(data.data)) / model[-1].scale_)[:, [2, 0]]
    np.testing.assert_allclose(display.rewards, expected)
    assert display.ax_.get_xlabel() == "objective_2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2, 3]],), r"rewards of shape \(1, 3\)"),
        (([[1, 2]], ["a"]), "1 names"),
        (([[1, np.nan]],), "1 outputs, 1 rewards not finite"),
        (([[1, 2]], ["a", "b"], {"equal": [1]}), "the points .'equal'."),
    ],
)
def test_pareto_displays_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParetoDisplay(*arguments).plot()
