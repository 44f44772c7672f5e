"""The table of the hardest pairs: its columns, its reasons, and the margins of the rounds."""

import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from fairl_sk import FailureAwareIRL, FailureAwareIRLCV, MaxMarginIRL, PairTransformer, inspect_failures
from fairl_sk.datasets import make_preferences


@pytest.fixture(scope="module")
def noisy():
    return make_preferences(600, 8, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def reward(noisy):
    return FailureAwareIRL(alpha=0.01, random_state=0).fit(noisy.data, noisy.target)


def test_the_hardest_pairs_come_first(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=30)
    margins = np.where(noisy.target == 1, 1, -1) * reward.decision_function(noisy.data)
    assert list(table.columns) == ["pair", "margin", "noise_probability", "reason", "trajectory"]
    np.testing.assert_array_equal(table["pair"], np.argsort(margins)[:30])
    np.testing.assert_allclose(table["margin"], np.sort(margins)[:30])


def test_implicit_rewards_stand_beside_the_margins(noisy):
    values = noisy.reference_reward
    reward = FailureAwareIRL(failures="implicit", n_rounds=5, random_state=0)
    reward.fit(noisy.data, noisy.target, implicit_rewards=values)
    table = inspect_failures(reward, noisy.data, noisy.target, k=40, implicit_rewards=values)
    margins = np.where(noisy.target == 1, 1, -1) * (values[:, 0] - values[:, 1])
    np.testing.assert_array_equal(table["implicit_margin"], margins[table["pair"]])
    assert (table["implicit_margin"] < 0).all()  # the hardest pairs are flipped, and the models know
    np.testing.assert_allclose(table["trajectory"].iloc[0].shape, (5,))
    with pytest.raises(ValueError, match="implicit_rewards of shape"):
        inspect_failures(reward, noisy.data, noisy.target, implicit_rewards=values[:, 0])


@pytest.mark.parametrize("seed", [1, 2])
def test_of_the_hundred_hardest_pairs_suspected_noise_is_flipped(seed):
    data = make_preferences(800, 12, noise=0.2, random_state=seed)
    reward = FailureAwareIRL(random_state=0).fit(data.data, data.target)
    table = inspect_failures(reward, data.data, data.target, k=100, trajectory=False)
    suspected = table["reason"] == "suspected noise"
    assert suspected.sum() >= 50
    assert data.flipped[table["pair"][suspected]].mean() >= 0.9


def test_near_ties_are_ambiguous_and_only_failures_have_a_reason(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=10_000, trajectory=False)
    size = np.abs(np.subtract(*noisy.reference_reward.T))[table["pair"]]
    ambiguous, suspected = table["reason"] == "ambiguity", table["reason"] == "suspected noise"
    assert ambiguous.any() and size[ambiguous].mean() < size[suspected].mean() / 2
    np.testing.assert_array_equal(table["reason"] == "none", table["margin"] > 0)
    assert len(table) == 600  # fewer than k pairs


def test_improbable_preferences_of_near_tied_outputs_are_no_flips():
    data = make_preferences(1000, 5, temperature=0.5, random_state=0)
    reward = MaxMarginIRL(alpha=0.01, random_state=0).fit(data.data, data.target)
    table = inspect_failures(reward, data.data, data.target, k=1000)
    assert (table["reason"] == "suspected noise").sum() <= 5


def test_a_wrong_reward_makes_errors_and_not_noise():
    data = make_preferences(300, 5, random_state=0)
    reward = MaxMarginIRL(alpha=0.01, random_state=0).fit(data.data, data.target)
    reward.coef_ = -reward.coef_
    table = inspect_failures(reward, data.data, data.target, k=50)
    assert set(table["reason"]) == {"error"}
    assert table["trajectory"].isna().all()  # a reward without rounds has none


def test_a_search_is_inspected_by_its_best_estimator(noisy):
    search = FailureAwareIRLCV(alpha=[0.1, 1.0], failure_weight=[1.0], cv=2, random_state=0)
    table = inspect_failures(search.fit(noisy.data, noisy.target), noisy.data, noisy.target, k=3)
    assert len(table["trajectory"][0]) == len(search.best_estimator_.history_)


def test_folds_keep_groups_and_shared_outputs_together(noisy, reward):
    """Flipped pairs are suspected although their copies support them: all copies are in one fold."""
    copies = np.r_[np.arange(600), np.repeat(np.flatnonzero(noisy.flipped)[:20], 10)]
    X, y = noisy.data[copies], noisy.target[copies]
    moved = X + 1e-3 * np.random.default_rng(0).normal(size=X.shape)  # no two outputs are equal

    def mean_noise(X, **options):
        table = inspect_failures(reward, X, y, k=len(X), trajectory=False, **options)
        return table["noise_probability"][table["pair"] >= 600].mean()

    assert min(mean_noise(X), mean_noise(moved, groups=copies)) > mean_noise(moved) + 0.05


def test_pairs_without_weight_do_not_count(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, sample_weight=~noisy.flipped, k=100, trajectory=False)
    assert table["noise_probability"].max() < 0.05  # among the others there are no flips


class Halves(BaseEstimator):
    """A detector with a fit of its own: it finds the pairs below the median margin of a round."""

    def fit(self, X, y, sample_weight, **known):
        self.n_pairs_ = len(X)
        return self

    def detect(self, state):
        assert self.n_pairs_ == len(state.margins)
        return state.margins <= np.median(state.margins)


@pytest.mark.parametrize("failures", ["confirmed", Halves()], ids=str)
def test_the_trajectory_is_that_of_the_fit(noisy, failures):
    labels = (noisy.reference_reward > 0).astype(float)
    reward = FailureAwareIRL(failures=failures, failure_weight=1.0, alpha=0.01, random_state=0)
    reward.fit(noisy.data, noisy.target, output_labels=labels)
    table = inspect_failures(reward, noisy.data, noisy.target, k=600, output_labels=labels)
    middle = [row["margin_q50"] for row in reward.history_]
    np.testing.assert_allclose(np.median(np.stack(table["trajectory"]), axis=0), middle, rtol=1e-6, atol=1e-9)


def test_a_pipeline_reads_texts_and_shows_them(detox):
    pipeline = make_pipeline(
        PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(8, random_state=0))),
        FailureAwareIRL(alpha=0.01, random_state=0),
    ).fit(detox.data, detox.target)
    table = inspect_failures(pipeline, detox.data, detox.target, k=4)
    texts = np.asarray(detox.data, dtype=object)
    for row, preferred, other in zip(table["pair"], table["preferred"], table["other"], strict=True):
        first = detox.target[row] == 1
        assert (preferred, other) == (texts[row, 1 - first], texts[row, int(first)])
    again = inspect_failures(pipeline[-1], pipeline[:-1].transform(detox.data), detox.target, k=4, texts=detox.data)
    assert again["preferred"].tolist() == table["preferred"].tolist()


def test_y_is_optional_and_sides_may_be_swapped(noisy):
    X = np.where(noisy.target[:, None, None] == 1, noisy.data, noisy.data[:, ::-1])
    reward = MaxMarginIRL(alpha=0.01, random_state=0).fit(X)
    first = inspect_failures(reward, X, k=10)
    swapped = inspect_failures(reward, X[:, ::-1], np.zeros(600, dtype=int), k=10)
    for name in ("pair", "reason"):
        assert first[name].tolist() == swapped[name].tolist()
    np.testing.assert_allclose(first["noise_probability"], swapped["noise_probability"])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), "Found k=0. Expected a whole number above 0"),
        (dict(X=np.ones((600, 8))), "failures are of pairs"),
        (dict(texts=[["a", "b"]]), r"Found texts of shape \(1, 2\) for 600 pairs"),
        (dict(groups=[1, 2]), r"Found groups of shape \(2,\).*for 600 pairs"),
        (dict(groups=np.zeros(600)), r"1 distinct values.*pass groups=np.arange"),
    ],
)
def test_bad_input_is_refused(noisy, reward, options, message):
    with pytest.raises(ValueError, match=message):
        inspect_failures(reward, **{"X": noisy.data, "y": noisy.target} | options)


def test_without_pandas_the_remedy_is_named(noisy, reward, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        inspect_failures(reward, noisy.data, noisy.target)
