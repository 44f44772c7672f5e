"""The table of the hardest pairs: what stands in it, that its reasons are right, and that the rounds are the fit's."""

import sys

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from fairl_sk import (
    FailureAwareIRL,
    FailureAwareIRLCV,
    MaxEntropyIRL,
    MaxMarginIRL,
    PairTransformer,
    inspect_failures,
)
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.failures import ConfirmedFailures, CrossFittedFailures, FewLabelFailures, NoiseAwareFailures


@pytest.fixture(scope="module")
def noisy():
    return make_preferences(600, 8, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def reward(noisy):
    return FailureAwareIRL(alpha=0.01, random_state=0).fit(noisy.data, noisy.target)


def test_the_hardest_pairs_come_first_with_all_that_is_known(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=30)
    margins = np.where(noisy.target == 1, 1, -1) * reward.decision_function(noisy.data)
    assert list(table.columns) == [
        "pair",
        "margin",
        "held_out_margin",
        "held_out_std",
        "noise_probability",
        "reason",
        "trajectory",
    ]
    np.testing.assert_array_equal(table["pair"], np.argsort(margins)[:30])
    np.testing.assert_allclose(table["margin"], np.sort(margins)[:30])
    assert table["margin"].is_monotonic_increasing
    assert set(table["reason"]) <= {"error", "ambiguity", "suspected noise", "none"}
    assert len(inspect_failures(reward, noisy.data, noisy.target, k=10_000, trajectory=False)) == 600


def test_the_trajectory_is_that_of_the_fit(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=600, noise=None)
    rounds = np.stack(table["trajectory"])
    assert rounds.shape == (600, reward.n_iter_)
    middle = [row["margin_q50"] for row in reward.history_]
    np.testing.assert_allclose(np.sort(rounds, axis=0)[300], middle, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("learner", [MaxMarginIRL(margin=2.0), MaxEntropyIRL(temperature=0.5)], ids=repr)
def test_standard_learners_have_a_trajectory_too(noisy, learner):
    learner = learner.set_params(alpha=0.01, random_state=0, tol=1e-6).fit(noisy.data, noisy.target)
    table = inspect_failures(learner, noisy.data, noisy.target, k=5, noise=None)
    assert len(table["trajectory"][0]) == learner.n_iter_
    last = [rounds[-1] for rounds in table["trajectory"]]
    np.testing.assert_allclose(last, table["margin"], rtol=1e-2)


def test_flipped_pairs_are_suspected_and_near_ties_are_ambiguous(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=600, trajectory=False)
    flipped, size = noisy.flipped[table["pair"]], np.abs(np.subtract(*noisy.reference_reward.T))[table["pair"]]
    suspected = table["reason"] == "suspected noise"
    assert flipped[suspected].mean() > 0.85  # precision
    assert suspected[flipped].mean() > 0.7  # recall
    assert roc_auc_score(flipped, table["noise_probability"]) > 0.95
    ambiguous = table["reason"] == "ambiguity"
    assert ambiguous.any() and size[ambiguous].mean() < size[suspected].mean() / 3
    assert (table["reason"][table["margin"] > 0] == "none").all()
    assert (table["reason"][table["margin"] <= 0] != "none").all()


def test_a_wrong_reward_makes_errors_and_not_noise():
    """Clean pairs that a reward of the other sign gets wrong are its errors: what others learn from them is right."""
    data = make_preferences(300, 5, random_state=0)
    reward = MaxMarginIRL(alpha=0.01, random_state=0).fit(data.data, data.target)
    reward.coef_ = -reward.coef_
    table = inspect_failures(reward, data.data, data.target, k=50, trajectory=False)
    assert set(table["reason"]) == {"error"} and (table["held_out_margin"] > 0).all()


def test_without_an_ensemble_a_failure_is_an_error(noisy, reward):
    table = inspect_failures(reward, noisy.data, noisy.target, k=600, noise=None, trajectory=False)
    assert table["noise_probability"].isna().all() and table["held_out_std"].isna().all()
    np.testing.assert_array_equal(table["reason"] == "error", table["margin"] <= 0)
    assert table["trajectory"].isna().all()


def test_the_detector_s_settings_and_the_threshold_are_obeyed(noisy, reward):
    def reasons(**settings):
        return inspect_failures(reward, noisy.data, noisy.target, k=600, trajectory=False, **settings)["reason"]

    assert not (reasons(noise=NoiseAwareFailures(confidence=1.0)) == "suspected noise").any()
    assert (reasons(threshold=-1e9) == "none").all()
    assert (reasons(n_std=4.0) == "ambiguity").sum() > (reasons(n_std=1.0) == "ambiguity").sum()


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
    margins = np.where(detox.target == 1, 1, -1) * pipeline.decision_function(detox.data)
    np.testing.assert_allclose(table["margin"], np.sort(margins)[:4])
    by_hand = inspect_failures(pipeline[-1], pipeline[:-1].transform(detox.data), detox.target, k=4, texts=detox.data)
    assert by_hand["preferred"].tolist() == table["preferred"].tolist()


def test_y_is_optional_and_sides_may_be_swapped(noisy):
    X = np.where(noisy.target[:, None, None] == 1, noisy.data, noisy.data[:, ::-1])
    reward = MaxMarginIRL(alpha=0.01, random_state=0).fit(X)
    first = inspect_failures(reward, X, k=10)
    swapped = inspect_failures(reward, X[:, ::-1], np.r_[np.zeros(599), 0].astype(int), k=10, trajectory=False)
    for name in ("pair", "reason"):
        assert first[name].tolist() == swapped[name].tolist()
    np.testing.assert_allclose(first["noise_probability"], swapped["noise_probability"])


@pytest.mark.parametrize(
    "detector", [ConfirmedFailures(), FewLabelFailures(), CrossFittedFailures(), NoiseAwareFailures()], ids=repr
)
def test_the_second_fit_has_the_first_one_s_detector_and_labels(noisy, detector):
    labels = np.where(noisy.reference_reward > 0, 1.0, 0.0)
    if isinstance(detector, FewLabelFailures):
        labels[60:] = np.nan
    reward = FailureAwareIRL(failures=detector, alpha=0.01, random_state=0)
    reward.fit(noisy.data, noisy.target, output_labels=labels)
    table = inspect_failures(reward, noisy.data, noisy.target, k=600, noise=None, output_labels=labels)
    rounds = np.sort(np.stack(table["trajectory"]), axis=0)
    np.testing.assert_allclose(rounds[300], [row["margin_q50"] for row in reward.history_], rtol=1e-6, atol=1e-9)


def test_a_search_is_inspected_by_its_best_estimator(noisy):
    search = FailureAwareIRLCV(alpha=[0.1, 1.0], failure_weight=[1.0], max_iter=60, cv=2, random_state=0)
    search.fit(noisy.data, noisy.target)
    table = inspect_failures(search, noisy.data, noisy.target, k=3, noise=None)
    assert len(table["trajectory"][0]) == search.best_estimator_.n_iter_


def test_what_cannot_be_inspected_is_refused(noisy, reward):
    X, y = noisy.data, noisy.target
    with pytest.raises(ValueError, match="Found k=0"):
        inspect_failures(reward, X, y, k=0)
    with pytest.raises(ValueError, match="Found noise='yes'"):
        inspect_failures(reward, X, y, noise="yes")
    with pytest.raises(ValueError, match="failures are of pairs"):
        inspect_failures(reward, X[:, 0], y)
    with pytest.raises(ValueError, match=r"Found texts of shape \(1, 2\) for 600 pairs"):
        inspect_failures(reward, X, y, texts=[["a", "b"]])

    class Other(LogisticRegression):
        def decision_function(self, X):
            return super().decision_function(X[:, 0] - X[:, 1])

    other = Other().fit(X[:, 0] - X[:, 1], y)
    assert len(inspect_failures(other, X, y, k=3, trajectory=False)) == 3
    with pytest.raises(ValueError, match="Found Other, which has no rounds.*trajectory=False"):
        inspect_failures(other, X, y)


def test_without_pandas_the_remedy_is_named(noisy, reward, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        inspect_failures(reward, noisy.data, noisy.target)
