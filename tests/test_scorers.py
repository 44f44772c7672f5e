"""Scorers and nulls inside scikit-learn's cross-validation, searches and metadata routing."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, PairTransformer, metrics


def kindness(texts):
    return np.array([text.count("kind") - text.count("rude") for text in texts], dtype=float)


SCORERS = {
    "accuracy": metrics.pair_accuracy_scorer,
    "log_loss": metrics.pair_log_loss_scorer,
    "f1": metrics.output_f1_scorer,
    "auc": metrics.output_auc_scorer,
    "starc": metrics.make_starc_scorer(kindness, groups="pairs"),
}


@pytest.fixture
def texts(rng):
    words = rng.choice(["alpha", "beta", "gamma", "delta"], size=(60, 2))
    return np.array([[f"kind {a}", f"rude {b}"] for a, b in words], dtype=object)


@pytest.fixture
def pipeline():
    embed = make_pipeline(CountVectorizer(), TruncatedSVD(5, random_state=0))
    return make_pipeline(PairTransformer(embed), MaxEntropyIRL(random_state=0))


@pytest.fixture
def features(rng):
    X = rng.normal(size=(40, 2, 3))
    return X, (X[:, 0, 0] > X[:, 1, 0]).astype(int)


def rewards_of(fitted, X):
    return fitted.decision_function(X.reshape(-1, *X.shape[2:])).reshape(-1, 2)


@pytest.mark.parametrize(("with_y", "routing"), [(True, False), (False, True)])
def test_scorers_in_cross_validate(texts, pipeline, with_y, routing):
    X, y = texts, None
    if with_y:
        X, y = texts.copy(), np.arange(60) % 2
        X[y == 0] = X[y == 0, ::-1]
    with sklearn.config_context(enable_metadata_routing=routing):
        results = cross_validate(pipeline, X, y, cv=KFold(3), scoring=SCORERS, error_score="raise")
    for fold, (train, test) in enumerate(KFold(3).split(X)):
        fitted = clone(pipeline).fit(X[train], None if y is None else y[train])
        rewards, y_test = rewards_of(fitted, X[test]), None if y is None else y[test]
        margins, truth = rewards[:, 0] - rewards[:, 1], kindness(X[test].ravel()).reshape(-1, 2)
        expected = {
            "accuracy": metrics.pair_accuracy(y_test, margins),
            "log_loss": -metrics.pair_log_loss(y_test, margins),
            "f1": metrics.output_f1_score(y_test, rewards),
            "auc": metrics.output_auc_score(y_test, rewards),
            "starc": -metrics.starc_distance(rewards, truth, groups="pairs"),
        }
        assert {name: results[f"test_{name}"][fold] for name in SCORERS} == pytest.approx(expected, abs=1e-6)
    assert results["test_auc"].min() > 0.9 and results["test_starc"].min() > -0.4


def test_scorers_on_tables_in_a_search_that_is_cloned_and_pickled(texts, pipeline):
    table = pd.DataFrame({"prompt": "well, ", "chosen": texts[:, 0], "rejected": texts[:, 1]})
    search = GridSearchCV(pipeline, {"maxentropyirl__alpha": [1e-3, 1.0]}, scoring=SCORERS, refit="starc", cv=3)
    search = pickle.loads(pickle.dumps(clone(search))).fit(table)
    assert search.best_score_ == search.cv_results_["mean_test_starc"].max() > -0.4
    assert search.cv_results_["mean_test_accuracy"].max() == 1 and search.score(table) > -0.4
    seen = []

    def reference(outputs):
        seen.extend(outputs)
        return kindness(outputs)

    outputs = pd.DataFrame({"prompt": ["p", "q", "r"], "completion": ["kind", "so kind", "rude"]})
    assert -1 <= metrics.make_starc_scorer(reference)(search, outputs) <= 0
    assert seen == ["p\n\nkind", "q\n\nso kind", "r\n\nrude"]


def test_scorers_of_single_outputs_and_output_labels(features):
    X, y = features
    fitted, labels = MaxEntropyIRL(random_state=0).fit(X, y), (X[..., 0] > 0).astype(int)
    assert metrics.output_auc_scorer(fitted, X, y, output_labels=labels) > 0.95
    assert metrics.output_auc_scorer(fitted, X[:, 0], labels[:, 0]) > 0.95
    assert metrics.output_f1_scorer(fitted, X[:, 0], labels[:, 0]) > 0.8
    assert metrics.make_starc_scorer(lambda outputs: outputs[:, 0])(fitted, X[:, 0]) > -0.2
    assert metrics.pair_log_loss_scorer(fitted, X, 1 - y) == pytest.approx(-np.log(2))


def test_a_fold_with_one_class_is_read_by_the_classes_of_the_estimator(features):
    X, y = features[0], np.where(features[1] == 1, "yes", "no")
    fitted, no = MaxEntropyIRL(random_state=0).fit(X, y), y == "no"
    turned = rewards_of(fitted, X[no])[:, ::-1]
    assert metrics.pair_accuracy_scorer(fitted, X[no], y[no]) == metrics.pair_accuracy(None, -np.diff(turned)[:, 0])
    assert metrics.output_auc_scorer(fitted, X[no], y[no]) == metrics.output_auc_score(None, turned)


def test_routed_metadata_reaches_the_scorers(rng, features):
    X, y = features
    params = {
        "sample_weight": rng.integers(1, 5, size=40),
        "output_labels": rng.integers(2, size=(40, 2)),
        "reference_reward": rng.normal(size=(40, 2)),
        "groups": np.arange(40) // 4,
    }
    with sklearn.config_context(enable_metadata_routing=True):
        f1 = copy.deepcopy(metrics.output_f1_scorer).set_score_request(sample_weight=True, output_labels=True)
        accuracy = copy.deepcopy(metrics.pair_accuracy_scorer).set_score_request(sample_weight="sample_weight")
        starc = metrics.make_starc_scorer().set_score_request(reference_reward=True, groups=True, sample_weight=True)
        learner = MaxEntropyIRL(random_state=0).set_fit_request(sample_weight=True)
        scoring = {"f1": f1, "accuracy": accuracy, "starc": starc}
        results = cross_validate(learner, X, y, cv=GroupKFold(4), scoring=scoring, params=params, error_score="raise")
    for fold, (train, test) in enumerate(GroupKFold(4).split(X, groups=params["groups"])):
        fitted = clone(learner).fit(X[train], y[train], sample_weight=params["sample_weight"][train])
        rewards, part = rewards_of(fitted, X[test]), {name: value[test] for name, value in params.items()}
        weights, reference, groups = part["sample_weight"], part["reference_reward"], part["groups"]
        f1 = metrics.output_f1_score(None, rewards, output_labels=part["output_labels"], sample_weight=weights)
        assert results["test_f1"][fold] == pytest.approx(f1)
        accuracy = metrics.pair_accuracy(y[test], rewards[:, 0] - rewards[:, 1], sample_weight=weights)
        assert results["test_accuracy"][fold] == pytest.approx(accuracy)
        distance = metrics.starc_distance(rewards, reference, groups=groups, sample_weight=weights)
        assert results["test_starc"][fold] == pytest.approx(-distance, abs=1e-6)


def test_scorer_errors(features):
    X, y = features
    fitted, make = MaxEntropyIRL(random_state=0).fit(X, y), metrics.make_starc_scorer
    for error, call, message in (
        (ValueError, lambda: make()(fitted, X), "neither a reference nor the metadata reference_reward"),
        (ValueError, lambda: make(len)(fitted, X, reference_reward=y), "both a reference and the metadata"),
        (ValueError, lambda: make(np.zeros((6, 2))), "reference of type ndarray.*routed metadata reference_reward"),
        (ValueError, lambda: make(groups=np.arange(6)), "expected None or 'pairs'. Pass prompts as routed metadata"),
        (ValueError, lambda: metrics.pair_accuracy_scorer(fitted, X[:, 0], y), "single outputs, but .* needs pairs"),
        (TypeError, lambda: metrics.pair_accuracy_scorer(CountVectorizer(), X), "without a decision_function.*End the"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_length_nulls():
    texts = np.array([["a long output", "short"], ["no", "a longer one"]], dtype=object)
    longer = metrics.longer_null(texts)
    assert np.median(longer) == 0 and (longer[:, 0] - longer[:, 1]).tolist() == [8, -10]
    np.testing.assert_array_equal(metrics.shorter_null(texts), -longer)
    table = pd.DataFrame({"prompt": ["", "p", ""], "completion": ["a", "three", "seven words"]})
    np.testing.assert_array_equal(metrics.longer_null(table), [-7, 0, 3])  # 1, 8 and 11 characters
    with pytest.raises(ValueError, match="without texts.*Pass the input of the vectorizer"):
        metrics.longer_null(np.zeros((3, 2, 4)))


class Recorder(MaxEntropyIRL):
    seen: list = []

    def fit(self, X, y=None):
        self.seen.append((X, list(y)))
        return super().fit(X, y)


@pytest.mark.parametrize(("y", "classes"), [(None, (0, 1)), (np.ones(40), (0, 1)), (["x", "y"] * 20, ("x", "y"))])
def test_shuffled_labels_are_seeded_balanced_and_keep_the_classes(features, y, classes):
    X, Recorder.seen = features[0], []
    draws = [metrics.shuffled_labels_null(Recorder(), X, y, X_test=X[:9], random_state=seed) for seed in (1, 1, 2)]
    assert draws[0].shape == (9, 2) and (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    assert all([labels.count(name) for name in classes] == [20, 20] for _, labels in Recorder.seen)


def test_shuffled_labels_of_outputs_by_whole_groups_and_errors(features):
    X, y = features
    assert metrics.shuffled_labels_null(MaxEntropyIRL(), X[:, 0], y, random_state=0).shape == (40,)
    X[..., 2] = np.arange(40)[:, None] // 2
    metrics.shuffled_labels_null(Recorder(), X, groups=np.arange(40) // 2)
    assert all(set(np.unique(rows[:, 0, 2], return_counts=True)[1]) == {2} for rows, _ in Recorder.seen[-5:])
    with pytest.raises(ValueError, match="an out-of-fold fit needs at least 2"):
        metrics.shuffled_labels_null(MaxEntropyIRL(), X, groups=np.zeros(40))
    with pytest.raises(ValueError, match="outputs with y=None.*Pass y, or pairs"):
        metrics.shuffled_labels_null(MaxEntropyIRL(), X[:, 0])


def test_prompt_only_null_is_the_leave_one_out_mean(rng):
    prompts, labels = np.repeat(np.arange(40), 5), rng.integers(2, size=(200, 2))
    rewards = metrics.prompt_only_null(prompts, labels)
    np.testing.assert_allclose(rewards[0], labels[1:5].mean() - 0.5)
    assert metrics.pair_accuracy(None, rewards[:, 0] - rewards[:, 1]) == 0.5
    assert np.ptp(metrics.prompt_only_null(np.arange(200), labels)) == 0  # a pair's own labels never enter
    with pytest.raises(ValueError, match=r"output_labels of shape \(200,\)"):
        metrics.prompt_only_null(prompts, labels[:, 0])
