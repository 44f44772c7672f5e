"""Rewards distilled from implicit rewards: what they minimize, what they predict from, and clear errors."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny_models import make_model, make_tokenizer

from fairl_sk import DistilledIRL, MaxEntropyIRL, TextFeatures
from fairl_sk.export import RewardFunction
from fairl_sk.implicit import DistilledReward, ImplicitReward
from fairl_sk.metrics import pair_accuracy, pair_accuracy_scorer, starc_distance

WORDS = ["kind", "green", "awful fool", "thank you", "go away", "bench", "very green", "you fool", "so kind"]


@pytest.fixture(scope="module")
def noisy(rng_of=np.random.default_rng):
    """Pairs whose preferences say little, with an implicit reward that says more: the reward, and noise."""
    rng = rng_of(0)
    X, coef = rng.normal(size=(400, 2, 6)), rng.normal(size=6)
    reward = X @ coef
    y = (reward[:, 0] - reward[:, 1] + 4 * rng.logistic(size=400) > 0).astype(int)
    return X, y, reward, reward + rng.normal(size=reward.shape)


def test_it_is_ridge_regression_on_the_outputs(noisy):
    X, y, _, values = noisy
    weight = 1.0 + np.arange(400) % 2
    fitted = DistilledIRL(alphas=[0.1]).fit(X, y, sample_weight=weight, implicit_rewards=values)
    outputs, twice = X.reshape(-1, 6), np.repeat(weight, 2)
    centered = outputs - np.average(outputs, axis=0, weights=twice)
    size = np.average(np.square(centered).sum(axis=1), weights=twice)
    ridge = Ridge(alpha=0.1 * size * twice.sum()).fit(outputs, values.ravel(), sample_weight=twice)
    np.testing.assert_allclose(fitted.coef_, ridge.coef_, rtol=1e-10)
    assert fitted.alpha_ == pytest.approx(0.1)
    margins = fitted.decision_function(X)
    np.testing.assert_allclose(margins, (X[:, 0] - X[:, 1]) @ ridge.coef_, rtol=1e-10)
    assert fitted.score(X, y) == np.mean((margins > 0) == y)


def test_it_learns_more_than_the_preferences_hold(noisy):
    X, y, reward, values = noisy
    train, test = slice(0, 60), slice(60, 400)
    distilled = DistilledIRL().fit(X[train], y[train], implicit_rewards=values[train])
    standard = MaxEntropyIRL(alpha=1e-2).fit(X[train], y[train])
    found = [starc_distance(X[test] @ model.coef_, reward[test]) for model in (distilled, standard)]
    assert found[0] < found[1] / 2
    # what the reward adds to features and rewards is taken over as it is
    moved = DistilledIRL().fit(X[train], y[train], implicit_rewards=values[train] + 7)
    np.testing.assert_allclose(moved.coef_, distilled.coef_)
    assert moved.intercept_ == pytest.approx(distilled.intercept_)


def test_single_outputs(noisy):
    X, _, reward, values = noisy
    plain = DistilledIRL().fit(X[:, 0], implicit_rewards=values[:, 0])
    assert plain.decision_function(X[:, 0]).mean() == pytest.approx(values[:, 0].mean())
    labels = np.where(reward[:, 0] > 1, "good", "bad")
    labelled = DistilledIRL().fit(X[:, 0], labels, implicit_rewards=values[:, 0])
    np.testing.assert_allclose(labelled.coef_, plain.coef_)
    assert labelled.score(X[:, 0], labels) > max(0.85, plain.score(X[:, 0], (labels == "good").astype(int)))


def test_whole_groups_choose_alpha(noisy):
    """Rows that are repeated in one group are no held-out evidence."""
    X, _, _, values = noisy
    X, values = np.repeat(X[:12], 10, axis=0), np.repeat(values[:12] + 3, 10, axis=0)
    values = values + 3 * np.random.default_rng(1).normal(size=(12, 2)).repeat(10, axis=0)
    fit = DistilledIRL().fit
    alone, whole = (
        fit(X, implicit_rewards=values).alpha_,
        fit(X, implicit_rewards=values, groups=np.arange(12).repeat(10)).alpha_,
    )
    assert whole > alone


def test_in_a_pipeline_and_a_search(noisy):
    X, y, _, values = noisy
    search = GridSearchCV(DistilledIRL(), {"alphas": [[1e-3], [100.0]]}, cv=GroupKFold(4), scoring=pair_accuracy_scorer)
    search.fit(X, y, groups=np.arange(400), implicit_rewards=values)
    expected = DistilledIRL(alphas=search.best_params_["alphas"]).fit(X, y, implicit_rewards=values)
    np.testing.assert_array_equal(search.best_estimator_.coef_, expected.coef_)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({}, {}, r"needs implicit_rewards of shape \(400, 2\): pass ImplicitReward"),
        ({}, {"implicit_rewards": np.zeros(400)}, r"shape \(400,\) for X of shape \(400, 2, 6\)"),
        ({}, {"implicit_rewards": np.full((400, 2), np.nan)}, "800 implicit_rewards that are not finite"),
        (
            {},
            {"implicit_rewards": np.ones((400, 2))},
            "All implicit_rewards are 1: the aligned model has",
        ),
        ({"alphas": [0.0]}, {}, "Expected one or more numbers above 0"),
        (
            {},
            {"implicit_rewards": np.eye(400, 2), "output_labels": np.ones(400)},
            r"output_labels of shape \(400,\). Expected \(400, 2\)",
        ),
        ({}, {"implicit_rewards": np.eye(400, 2), "output_labels": np.full((400, 2), 3)}, "Found 3 in output_labels"),
        (
            {},
            {"implicit_rewards": np.eye(400, 2), "output_labels": np.ones((400, 2))},
            "Found 800 labels 1 and 0 labels 0",
        ),
        ({"cv": 1}, {}, "'cv' parameter of DistilledIRL must be"),
        ({}, {"implicit_rewards": np.eye(400, 2), "groups": np.arange(400) % 3}, "Found 3 groups for cv=5 folds"),
        ({}, {"implicit_rewards": np.eye(400, 2), "groups": [1]}, r"groups of shape \(1,\) for 400 rows"),
    ],
)
def test_bad_input(noisy, settings, given, message):
    with pytest.raises(ValueError, match=message):
        DistilledIRL(**settings).fit(noisy[0], noisy[1], **given)


def test_a_few_labels_correct_the_reward(noisy):
    """Alignment also changed what is no reward; labels of some outputs say so, and set the 0."""
    X, y, reward, values = noisy
    values = values + 4 * X[:, :, 0]
    train, test = slice(0, 200), slice(200, 400)
    truth = reward - 1
    labels = np.where(np.arange(400)[train, None] < 60, truth[train] > 0, np.nan)
    fits = {
        name: DistilledIRL().fit(X[train], y[train], implicit_rewards=values[train], output_labels=given)
        for name, given in {"none": None, "some": labels, "all": (truth[train] > 0).astype(int)}.items()
    }
    found = {name: starc_distance(X[test] @ model.coef_, reward[test]) for name, model in fits.items()}
    assert found["all"] < found["some"] < found["none"] / 2
    desirable = fits["all"].decision_function(X[test].reshape(-1, 6)) > 0
    assert np.mean(desirable == (truth[test].ravel() > 0)) > 0.95


# -------------------------------------------------------------------------------------- from texts and models


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(80)]
    return pd.DataFrame({"prompt": ["you are"] * 40, "chosen": texts[:40], "rejected": texts[40:]})


@pytest.fixture(scope="module")
def reward():
    return ImplicitReward(make_model("gpt_neox", 1), make_model("gpt_neox", 0), tokenizer=make_tokenizer())


def test_a_share_of_the_residual_is_added(reward, table):
    features = TextFeatures(encoder=None, words_weight=0, n_components=8, random_state=0)
    fitted = {share: DistilledReward(reward, features, share=share).fit(table) for share in (0, 0.25, 1)}
    values, distilled = reward.output_rewards(table), fitted[0].output_rewards(table)
    for share, model in fitted.items():
        rewards = model.output_rewards(table)
        between = distilled + share * (values - distilled)
        np.testing.assert_allclose(rewards - rewards.mean(), between - between.mean(), atol=1e-6)
        np.testing.assert_allclose(model.decision_function(table), rewards[:, 0] - rewards[:, 1])
        assert model.score(table) == pair_accuracy(np.ones(40), rewards[:, 0] - rewards[:, 1])
        singles = pd.DataFrame({"prompt": table.prompt, "completion": table.chosen})
        np.testing.assert_allclose(model.decision_function(singles), rewards[:, 0], rtol=1e-5)
        assert model.explained_ == pytest.approx(np.corrcoef(distilled.ravel(), values.ravel())[0, 1] ** 2)
    assert 0 < fitted[0].explained_ < 1


def test_without_a_share_predictions_need_no_language_model(reward, table, monkeypatch):
    features = TextFeatures(encoder=None, n_components=8, random_state=0)
    fitted = DistilledReward(clone(reward), features, share=0).fit(table, groups=np.arange(40))
    monkeypatch.setattr(ImplicitReward, "output_rewards", None)
    margins = fitted.decision_function(table)
    np.testing.assert_allclose(margins, fitted.pipeline_.decision_function(table), rtol=1e-5)
    function = RewardFunction(fitted.pipeline_, table)
    scores = function(prompts=list(table.prompt), completions=list(table.chosen))
    assert np.corrcoef(scores, fitted.output_rewards(table)[:, 0])[0, 1] > 0.999


def test_features_and_learner_of_ones_own(reward, table):
    features = TextFeatures(encoder=None, n_components=8, random_state=0)
    fitted = DistilledReward(reward, features, learner=DistilledIRL(alphas=[0.5])).fit(table)
    by_hand = make_pipeline(clone(features), DistilledIRL(alphas=[0.5]))
    by_hand.fit(table, distilledirl__implicit_rewards=reward.output_rewards(table))
    np.testing.assert_allclose(fitted.pipeline_[-1].coef_, by_hand[-1].coef_)
    with pytest.raises(ValueError, match="'share' parameter of DistilledReward must be"):
        DistilledReward(reward, share=2).fit(table)


class KnownRewards(BaseEstimator):
    """An implicit reward by text."""

    def __init__(self, by_text):
        self.by_text = by_text

    def __sklearn_clone__(self):
        return self

    def fit(self, X):
        return self

    def output_rewards(self, X):
        return np.array([[self.by_text[text] for text in row] for row in X])


@pytest.fixture(scope="module")
def known():
    """Texts, one of whose features a transformer sees; the reward has another one, and the implicit reward noise."""
    rng = np.random.default_rng(0)
    pairs = np.array([[f"{2 * i}", f"{2 * i + 1}"] for i in range(1500)])
    seen, unseen, noise = rng.normal(size=(3, 3000))
    reward = seen + unseen
    features = FunctionTransformer(lambda X: seen[X.astype(int)][..., None], validate=False)
    return pairs, features, reward, KnownRewards(dict(zip(pairs.ravel(), reward + noise, strict=True)))


def test_the_share_by_labels(known):
    """Half of the residual's variance is reward."""
    pairs, features, reward, implicit = known
    labels = np.where(np.arange(3000) < 2000, reward > 0.5, np.nan).reshape(-1, 2)
    fitted = DistilledReward(implicit, features).fit(pairs, output_labels=labels)
    assert fitted.share_ == pytest.approx(0.5, abs=0.07)
    values = implicit.output_rewards(pairs)
    by_hand = fitted.pipeline_[-1].decision_function(features.transform(pairs).reshape(-1, 1)).reshape(-1, 2)
    np.testing.assert_allclose(fitted.output_rewards(pairs), by_hand + fitted.weights_[1] * values)
    later = reward[2000:] > 0.5
    assert np.mean((fitted.output_rewards(pairs).ravel()[2000:] > 0) == later) > 0.8
    alone = DistilledReward(implicit, features, share=0).fit(pairs, output_labels=labels)
    expected = make_pipeline(features, DistilledIRL())
    expected.fit(pairs, distilledirl__implicit_rewards=values, distilledirl__output_labels=labels)
    np.testing.assert_allclose(alone.output_rewards(pairs).ravel(), expected.decision_function(pairs.ravel()))
