"""`LaplaceReward`: the posterior against brute force, units, coverage of a known reward, refusals."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairl_sk import FailureAwareIRL, FailureAwareIRLCV, LaplaceReward, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import make_preferences
from fairl_sk.diagnosis.uncertainty import _Posterior

EXACT = MaxEntropyIRL(tol=1e-10, random_state=0)


@pytest.fixture(scope="module")
def data():
    return make_preferences(400, 4, temperature=0.5, random_state=0)


@pytest.fixture(scope="module")
def fitted(data):
    return LaplaceReward(EXACT).fit(data.data, data.target)


def oriented(data):
    return (data.data[:, 0] - data.data[:, 1]) * np.where(data.target == 1, 1, -1)[:, None]


def loss(theta, differences, precision, weight=1.0):
    return np.sum(weight * np.logaddexp(0, -differences @ theta)) + precision / 2 * np.sum(theta**2)


def numeric_hessian(function, at, step=1e-3):
    moves = step * np.eye(len(at))
    return np.array(
        [
            [function(at + a + b) - function(at + a - b) - function(at - a + b) + function(at - a - b) for b in moves]
            for a in moves
        ]
    ) / (4 * step**2)


# ------------------------------------------------------------------------------------------------ the posterior


@pytest.mark.parametrize("prior", [3.0, "alpha", "evidence"])
def test_mode_and_covariance_are_those_of_brute_force(data, prior):
    weight = np.random.default_rng(0).uniform(0, 2, len(data.data))
    learner = clone(EXACT).set_params(temperature=0.7, alpha=0.02)
    found = LaplaceReward(learner, prior=prior).fit(data.data, data.target, sample_weight=weight)
    rho = found.prior_precision_
    if prior == "alpha":
        assert rho == pytest.approx(2 * 0.02 * 0.7**2 * weight.sum())
    differences = oriented(data)

    def objective(coef):  # of the reward's weights: the log-odds are a temperature of them
        return loss(coef / 0.7, differences, rho, weight)

    mode = minimize(objective, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(found.coef_, mode, atol=1e-4)
    np.testing.assert_allclose(found.deviation_, 0, atol=1e-4)
    hessian = numeric_hessian(objective, found.coef_)
    np.testing.assert_allclose(np.linalg.inv(found.covariance_), hessian, rtol=1e-4, atol=1e-3)
    assert found.alpha_ == pytest.approx(rho / (2 * 0.7**2 * weight.sum()))
    assert found.estimator_.alpha == pytest.approx(found.alpha_ if prior != "alpha" else 0.02)


def test_outputs_have_a_bias_that_is_integrated_out(rng):
    X = rng.normal(size=(300, 2)) + 5
    y = rng.random(300) < expit(X @ [1.0, -0.5] - 2)
    found = LaplaceReward(EXACT, prior=2.0).fit(X, y.astype(int))
    differences = np.column_stack([X, np.ones(300)]) * np.where(y, 1, -1)[:, None]

    def objective(theta):
        return loss(theta, differences, 0) + np.sum(theta[:2] ** 2)

    mode = minimize(objective, np.zeros(3), tol=1e-12).x
    covariance = np.linalg.inv(numeric_hessian(objective, mode))[:2, :2]
    np.testing.assert_allclose(found.covariance_, covariance, rtol=1e-3)
    np.testing.assert_allclose(found.coef_ + found.deviation_, mode[:2], atol=1e-4)


def test_the_evidence_is_largest_at_the_precision_that_is_found():
    """One weight, where the evidence is an integral that can be done."""
    differences = oriented(make_preferences(60, 1, temperature=0.5, random_state=0))
    X = np.stack([differences, np.zeros_like(differences)], axis=1)
    rho = LaplaceReward(EXACT).fit(X).prior_precision_

    def log_evidence(log_rho):
        def integrand(theta):
            prior = norm.pdf(theta, scale=np.exp(-log_rho / 2))
            return prior * np.exp(-loss(np.array([theta]), differences, 0.0) + 60 * np.log(2))

        return np.log(quad(integrand, -8, 8, limit=200)[0])

    best = minimize(lambda x: -log_evidence(x[0]), [0.0], method="Nelder-Mead").x[0]
    assert np.log(rho) == pytest.approx(best, abs=0.4)  # the Laplace approximation of one weight is not exact
    assert log_evidence(np.log(rho)) == pytest.approx(log_evidence(best), abs=0.02)


@pytest.mark.parametrize("n_pairs", [60, 400])
def test_the_slope_of_the_evidence_is_its_derivative(data, n_pairs):
    differences = oriented(data)[:n_pairs]
    posterior = _Posterior(data.data[:n_pairs], np.where(data.target[:n_pairs] == 1, 1.0, -1.0), np.ones(n_pairs))

    def twice_log_evidence(log_rho):
        rho = np.exp(log_rho)
        mode = minimize(loss, np.zeros(4), args=(differences, rho), tol=1e-12).x
        p = expit(differences @ mode)
        hessian = (differences.T * (p * (1 - p))) @ differences + rho * np.eye(4)
        return -2 * loss(mode, differences, rho) + 4 * log_rho - np.linalg.slogdet(hessian)[1]

    for log_rho in (-1.0, 2.0):
        slope = (twice_log_evidence(log_rho + 1e-3) - twice_log_evidence(log_rho - 1e-3)) / 2e-3
        inside = log_rho - 2 * np.log(posterior.scale)
        assert posterior.evidence_slope(inside) == pytest.approx(slope, abs=1e-3)


def test_pairs_that_say_nothing_and_pairs_that_say_all_end_at_the_bounds(rng):
    noise = LaplaceReward().fit(rng.normal(size=(400, 2, 6)), np.arange(400) % 2)
    clear = np.abs(rng.normal(size=(400, 2, 2))) * [[[1], [-1]]]
    sure = LaplaceReward().fit(clear)
    for found, spread in ((noise, 0.1), (sure, 100.0)):
        assert np.isfinite(found.covariance_).all()
        squares = np.square(clear[:, 0] - clear[:, 1]).sum(axis=1).mean() if found is sure else 12.0
        assert 1 / spread**2 <= found.prior_precision_ / squares * 1.1 <= 4 / spread**2


# ----------------------------------------------------------------------------------- units, weights and the gauge


@pytest.mark.parametrize("learner", [EXACT, MaxMarginIRL(random_state=0)])
def test_features_in_another_unit(data, learner):
    found = LaplaceReward(learner).fit(data.data, data.target)
    other = clone(learner).set_params(alpha=100 * learner.alpha)  # of max-entropy it follows the prior
    other = LaplaceReward(other).fit(10 * data.data, data.target)
    assert other.prior_precision_ == pytest.approx(100 * found.prior_precision_, rel=1e-3)
    margins, std = found.decision_function(data.data, return_std=True)
    other_margins, other_std = other.decision_function(10 * data.data, return_std=True)
    np.testing.assert_allclose(other_margins, margins, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(other_std, std, rtol=1e-3)


@pytest.mark.parametrize("learner", [None, MaxMarginIRL(random_state=0)])
def test_a_weight_of_two_is_the_row_twice(data, learner):
    twice = np.repeat(np.arange(400), 1 + np.arange(400) % 2)
    found = LaplaceReward(learner).fit(data.data, data.target, sample_weight=1 + np.arange(400) % 2)
    other = LaplaceReward(learner).fit(data.data[twice], data.target[twice])
    for name in ("covariance_", "deviation_", "centre_", "temperature_", "prior_precision_"):
        np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=1e-6, atol=1e-9, err_msg=name)


def test_swapped_sides_and_the_temperature_change_units_only(data, fitted):
    margins, std = fitted.decision_function(data.data, return_std=True)
    swapped, swapped_std = fitted.decision_function(data.data[:, ::-1], return_std=True)
    np.testing.assert_allclose(swapped, -margins)
    np.testing.assert_allclose(swapped_std, std)
    warm = LaplaceReward(clone(EXACT).set_params(temperature=2.0)).fit(data.data, data.target)
    np.testing.assert_allclose(warm.decision_function(data.data, return_std=True)[1], 2 * std, rtol=1e-4)
    np.testing.assert_allclose(warm.predict_proba(data.data), fitted.predict_proba(data.data), atol=1e-4)


def test_std_of_pairs_and_of_outputs_are_those_of_differences(data, fitted):
    rewards, std = fitted.decision_function(data.data[:, 0], return_std=True)
    np.testing.assert_allclose(rewards, fitted.estimator_.decision_function(data.data[:, 0]))
    centre = data.data.reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(fitted.centre_, centre)
    pairs = np.stack([data.data[:, 0], np.broadcast_to(centre, (400, 4))], axis=1)
    np.testing.assert_allclose(fitted.decision_function(pairs, return_std=True)[1], std)
    difference = data.data[7, 0] - data.data[7, 1]
    expected = np.sqrt(difference @ fitted.covariance_ @ difference + (difference @ fitted.deviation_) ** 2)
    assert fitted.decision_function(data.data[7:8], return_std=True)[1][0] == pytest.approx(expected)
    assert fitted.decision_function(centre[None], return_std=True)[1][0] == pytest.approx(0, abs=1e-12)


def test_more_than_a_chunk_of_rows(data, fitted):
    many = np.tile(data.data, (25, 1, 1))
    np.testing.assert_allclose(
        fitted.decision_function(many, return_std=True)[1],
        np.tile(fitted.decision_function(data.data, return_std=True)[1], 25),
    )
    y = np.tile(data.target, 25)
    whole = LaplaceReward(EXACT, prior=25 * 3.0).fit(many, y)
    part = LaplaceReward(EXACT, prior=3.0).fit(data.data, data.target)
    np.testing.assert_allclose(25 * whole.covariance_, part.covariance_, rtol=1e-6)


def test_float32_gives_nearly_the_same(data, fitted):
    found = LaplaceReward().fit(data.data.astype(np.float32), data.target)
    np.testing.assert_allclose(found.covariance_, fitted.covariance_, rtol=1e-3)
    assert found.covariance_.dtype == np.float64


# ------------------------------------------------------------------------------------------- what it says is true


def test_probabilities_of_pairs_are_drawn_towards_a_half(data, fitted):
    margins, std = fitted.decision_function(data.data, return_std=True)
    expected = expit(margins / np.sqrt(1 + np.pi / 8 * std**2))
    found = fitted.predict_proba(data.data)
    np.testing.assert_allclose(found[:, 1], expected)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (np.abs(found[:, 1] - 0.5) < np.abs(fitted.estimator_.predict_proba(data.data)[:, 1] - 0.5)).all()
    draws = np.random.default_rng(0).normal(margins[0], std[0], 100_000)
    assert expit(draws).mean() == pytest.approx(expected[0], abs=0.01)
    np.testing.assert_allclose(fitted.predict_proba(data.data[:, 0]), fitted.estimator_.predict_proba(data.data[:, 0]))


@pytest.mark.parametrize(
    ("learner", "unit"),
    [(MaxEntropyIRL(), 1.0), (MaxEntropyIRL(), 0.1), (MaxMarginIRL(), 1.0), (FailureAwareIRL(), 1.0)],
)
def test_intervals_hold_the_known_reward(learner, unit):
    scores = []
    for seed in range(8):
        known = make_preferences(1200, 10, temperature=0.7, random_state=seed)
        X, fresh = known.data[:800] * unit, known.data[800:] * unit
        reward = LaplaceReward(clone(learner).set_params(random_state=0)).fit(X, known.target[:800])
        margins, std = reward.decision_function(fresh, return_std=True)
        truth = (known.reference_reward[800:, 0] - known.reference_reward[800:, 1]) / 0.7
        scores.append((margins / reward.temperature_ - truth) / (std / reward.temperature_))
    covered = {level: np.mean(np.abs(scores) < norm.ppf(0.5 + level / 2)) for level in (0.68, 0.9, 0.95)}
    assert covered[0.68] == pytest.approx(0.68, abs=0.1)
    assert covered[0.9] == pytest.approx(0.9, abs=0.07)
    assert covered[0.95] == pytest.approx(0.95, abs=0.05)


def test_a_reward_that_is_shrunk_by_its_penalty_says_so(data):
    shrunk = MaxEntropyIRL(alpha=1.0).fit(data.data, data.target)
    found = LaplaceReward(FrozenEstimator(shrunk)).fit(data.data, data.target)
    best = LaplaceReward().fit(data.data, data.target)
    np.testing.assert_array_equal(found.coef_, shrunk.coef_)
    np.testing.assert_allclose(found.covariance_, best.covariance_)
    margins, std = found.decision_function(data.data, return_std=True)
    bias = best.decision_function(data.data) - margins
    own = best.decision_function(data.data, return_std=True)[1]
    np.testing.assert_allclose(std, np.hypot(own, bias), rtol=1e-2)
    trusting = LaplaceReward(FrozenEstimator(shrunk), prior="alpha").fit(data.data, data.target)
    assert np.abs(trusting.deviation_).max() < 0.01


def test_temperature_of_a_max_margin_reward_is_that_of_its_log_odds(data):
    for learner in (MaxMarginIRL(random_state=0), FailureAwareIRL(random_state=0)):
        found = LaplaceReward(learner).fit(data.data, data.target)
        margins = cross_val_predict(learner, data.data, data.target, method="decision_function")
        logistic = LogisticRegression(C=1e6, fit_intercept=False).fit(margins[:, None], data.target)
        assert found.temperature_ == pytest.approx(1 / logistic.coef_[0, 0], rel=0.1)


# ------------------------------------------------------------------------------------------------ in scikit-learn


def test_pipeline_clone_pickle_and_feature_names(data):
    pipeline = make_pipeline(PairTransformer(StandardScaler()), LaplaceReward(MaxMarginIRL(random_state=0)))
    pipeline = clone(pipeline).set_params(laplacereward__estimator__alpha=0.01).fit(data.data, data.target)
    assert pipeline[-1].estimator_.alpha == 0.01
    margins = pipeline.decision_function(data.data)
    features, reward = pipeline[:-1].transform(data.data), pipeline[-1]
    again = pickle.loads(pickle.dumps(reward)).decision_function(features, return_std=True)
    np.testing.assert_array_equal(again, reward.decision_function(features, return_std=True))
    np.testing.assert_array_equal(again[0], margins)
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(pipeline[0], clone(reward).set_decision_function_request(return_std=True))
        routed.fit(data.data, data.target)
        np.testing.assert_array_equal(routed.decision_function(data.data, return_std=True), again)
    assert pipeline.score(data.data, data.target) == np.mean((margins > 0) == data.target)
    table = pd.DataFrame(data.data[:, 0], columns=list("abcd"))
    outputs = LaplaceReward(FrozenEstimator(MaxEntropyIRL().fit(table, data.target))).fit(table, data.target)
    assert outputs.feature_names_in_.tolist() == list("abcd")
    assert np.isfinite(outputs.decision_function(table, return_std=True)).all()


def test_classes_searches_and_labels_of_outputs(data):
    names = np.where(data.target == 1, "first", "second"), np.array(["first", "second"])
    found = LaplaceReward().fit(data.data, names[0])
    assert found.classes_.tolist() == ["first", "second"]
    assert set(found.predict(data.data)) == {"first", "second"}
    search = FailureAwareIRLCV(alpha=[0.01, 0.1], cv=3, random_state=0)
    found = LaplaceReward(search).fit(data.data, data.target)
    assert found.estimator_.best_params_["alpha"] in (0.01, 0.1)
    np.testing.assert_array_equal(found.coef_, found.estimator_.coef_)
    labels = (data.reference_reward > 0).astype(int)
    learner = FailureAwareIRL(failures="labels", random_state=0)
    found = LaplaceReward(learner).fit(data.data, data.target, output_labels=labels)
    expected = clone(learner).fit(data.data, data.target, output_labels=labels)
    np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_y_none_means_the_first(data):
    sides = np.where(data.target[:, None, None] == 1, data.data, data.data[:, ::-1])
    first, both = LaplaceReward().fit(sides), LaplaceReward().fit(data.data, data.target)
    np.testing.assert_allclose(first.covariance_, both.covariance_)
    assert first.score(sides) == both.score(data.data, data.target)


# ------------------------------------------------------------------------------------------------------- refusals


def frozen(learner, data, n_features=4):
    return FrozenEstimator(learner.fit(data.data[..., :n_features], data.target))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: LaplaceReward(MaxEntropyIRL(hidden_layer_sizes=(8,))), r"hidden_layer_sizes=\(8,\).*ensemble"),
        (
            lambda data: LaplaceReward(FailureAwareIRL(failure_hidden_layer_sizes=(8,))),
            r"failure_hidden_layer_sizes=\(8,\).*ensemble",
        ),
        (lambda data: LaplaceReward(LogisticRegression()), "LogisticRegression as estimator. Expected MaxEntropyIRL"),
        (lambda data: LaplaceReward(make_pipeline(MaxEntropyIRL())), "put LaplaceReward around the last step"),
        (lambda data: LaplaceReward(LaplaceReward()), "Found LaplaceReward as estimator"),
        (lambda data: LaplaceReward(frozen(MaxEntropyIRL(), data, 3)), "rows of 4 features and a frozen .* of 3"),
        (lambda data: LaplaceReward(MaxMarginIRL(), prior="alpha"), "penalty is no prior of log-odds"),
        (lambda data: LaplaceReward(FailureAwareIRL("max_margin"), prior="alpha"), "penalty is no prior of log-odds"),
        (lambda data: LaplaceReward(MaxEntropyIRL(alpha=0), prior="alpha"), "alpha=0, which is no prior"),
        (lambda data: LaplaceReward(prior="none"), "The 'prior' parameter"),
        (lambda data: LaplaceReward(prior=0.0), "The 'prior' parameter"),
        (lambda data: LaplaceReward("MaxEntropyIRL"), "The 'estimator' parameter"),
    ],
)
def test_unfit_settings(data, make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make(data).fit(data.data, data.target)


def test_unfit_rows(data):
    reward = LaplaceReward()
    with pytest.raises(NotFittedError):
        reward.decision_function(data.data, return_std=True)
    with pytest.raises(NotFittedError):
        LaplaceReward(FrozenEstimator(MaxEntropyIRL())).fit(data.data, data.target)
    with pytest.raises(ValueError, match="identical on both sides"):
        reward.fit(np.ones((10, 2, 3)))
    with pytest.raises(ValueError, match="One class only|Found one class only"):
        reward.fit(data.data, np.ones(400))
    with pytest.raises(ValueError, match="one class only with a sample_weight above 0"):
        reward.fit(data.data, data.target, sample_weight=data.target)
    against = MaxMarginIRL(random_state=0).fit(data.data[:, ::-1], data.target)
    with pytest.raises(ValueError, match="points against the pairs.*check which class"):
        LaplaceReward(FrozenEstimator(against)).fit(data.data, data.target)
    reward.fit(data.data, data.target)
    before = dict(vars(reward))
    with pytest.raises(ValueError):
        reward.fit(data.data[..., :2], np.ones(400))
    assert vars(reward) == before
    with pytest.raises(ValueError, match="3 features"):
        reward.decision_function(data.data[..., :3], return_std=True)
