"""`LaplaceReward`: the posterior against brute force, units, coverage of a known reward, refusals."""

import numpy as np
import pytest
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
    def second(a, b):
        return function(at + a + b) - function(at + a - b) - function(at - a + b) + function(at - a - b)

    moves = step * np.eye(len(at))
    return np.array([[second(a, b) for b in moves] for a in moves]) / (4 * step**2)


# ------------------------------------------------------------------------------------------------ the posterior


@pytest.mark.parametrize("prior", [3.0, "alpha", "evidence"])
def test_mode_and_covariance_are_those_of_brute_force(data, prior):
    weight = np.random.default_rng(0).uniform(0, 2, len(data.data))
    learner = clone(EXACT).set_params(temperature=0.7, alpha=0.02)
    found = LaplaceReward(learner, prior=prior).fit(data.data, data.target, sample_weight=weight)
    rho = found.prior_precision_
    if prior == "alpha":
        assert rho == pytest.approx(2 * 0.02 * 0.7**2 * weight.sum())

    def objective(coef):  # of the reward's weights: in log-odds they are divided by the temperature
        return loss(coef / 0.7, oriented(data), rho, weight)

    np.testing.assert_allclose(found.coef_, minimize(objective, np.zeros(4), tol=1e-12).x, atol=1e-4)
    np.testing.assert_allclose(found.deviation_, 0, atol=1e-4)
    hessian = numeric_hessian(objective, found.coef_)
    np.testing.assert_allclose(np.linalg.inv(found.covariance_), hessian, rtol=1e-4, atol=1e-3)
    assert found.estimator_.alpha == pytest.approx(found.alpha_)
    assert found.alpha_ == pytest.approx(rho / (2 * 0.7**2 * weight.sum()))


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


@pytest.mark.parametrize("n_pairs, n_features", [(60, 1), (60, 4), (400, 4)])
def test_the_evidence_is_largest_at_the_precision_that_is_found(n_pairs, n_features):
    data = make_preferences(n_pairs, n_features, temperature=0.5, random_state=0)
    differences = oriented(data)

    def minus_twice_log_evidence(log_rho):
        rho = np.exp(log_rho[0])
        mode = minimize(loss, np.zeros(n_features), args=(differences, rho), tol=1e-12).x
        p = expit(differences @ mode)
        hessian = (differences.T * (p * (1 - p))) @ differences + rho * np.eye(n_features)
        return 2 * loss(mode, differences, rho) - n_features * log_rho[0] + np.linalg.slogdet(hessian)[1]

    best = minimize(minus_twice_log_evidence, [0.0], method="Nelder-Mead").x[0]
    found = LaplaceReward(EXACT).fit(data.data, data.target)
    assert np.log(found.prior_precision_) == pytest.approx(best, abs=1e-3)


def test_pairs_that_say_nothing_and_pairs_that_say_all_end_at_the_bounds(rng):
    clear = np.abs(rng.normal(size=(400, 2, 2))) * [[[1], [-1]]]
    for X, y, spread in ((rng.normal(size=(400, 2, 6)), np.arange(400) % 2, 0.1), (clear, None, 100.0)):
        found = LaplaceReward().fit(X, y)
        squares = np.square(X[:, 0] - X[:, 1]).sum(axis=1).mean()
        assert 1 / spread**2 <= found.prior_precision_ / squares * 1.1 <= 4 / spread**2
        assert np.isfinite(found.covariance_).all()


# ----------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize("learner", [EXACT, MaxMarginIRL(random_state=0)], ids=repr)
def test_units_and_repeated_rows(data, learner):
    found = LaplaceReward(learner).fit(data.data, data.target)
    scaled = clone(learner).set_params(alpha=100 * learner.alpha)  # of max-entropy it follows the prior
    scaled = LaplaceReward(scaled).fit(10 * data.data, data.target)
    assert scaled.prior_precision_ == pytest.approx(100 * found.prior_precision_, rel=1e-3)
    expected = found.decision_function(data.data, return_std=True)
    answers = scaled.decision_function(10 * data.data, return_std=True)
    np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-3)
    weight = 1 + np.arange(400) % 2
    weighted = LaplaceReward(learner).fit(data.data, data.target, sample_weight=weight)
    twice = LaplaceReward(learner).fit(np.repeat(data.data, weight, axis=0), np.repeat(data.target, weight))
    for name in ("covariance_", "deviation_", "center_", "temperature_", "prior_precision_"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(twice, name), rtol=1e-3, atol=1e-4, err_msg=name)


def test_sides_temperature_and_what_std_is_of(data, fitted):
    margins, std = fitted.decision_function(data.data, return_std=True)
    swapped, swapped_std = fitted.decision_function(data.data[:, ::-1], return_std=True)
    np.testing.assert_allclose(swapped, -margins)
    np.testing.assert_allclose(swapped_std, std)
    warm = LaplaceReward(clone(EXACT).set_params(temperature=2.0)).fit(data.data, data.target)
    np.testing.assert_allclose(warm.decision_function(data.data, return_std=True)[1], 2 * std, rtol=1e-4)
    np.testing.assert_allclose(warm.predict_proba(data.data), fitted.predict_proba(data.data), atol=1e-4)
    # of outputs, it is the one of the difference to the mean training output
    _, std = fitted.decision_function(data.data[:, 0], return_std=True)
    np.testing.assert_allclose(fitted.center_, data.data.reshape(-1, 4).mean(axis=0))
    pairs = np.stack([data.data[:, 0], np.broadcast_to(fitted.center_, (400, 4))], axis=1)
    np.testing.assert_allclose(fitted.decision_function(pairs, return_std=True)[1], std)


# ------------------------------------------------------------------------------------------- what it says is true


def test_probabilities_of_pairs_are_means_over_the_posterior(data, fitted):
    margins, std = fitted.decision_function(data.data, return_std=True)
    found = fitted.predict_proba(data.data)
    np.testing.assert_allclose(found[:, 1], expit(margins / np.sqrt(1 + np.pi / 8 * std**2)))
    draws = np.random.default_rng(0).normal(margins[0], std[0], 100_000)
    assert expit(draws).mean() == pytest.approx(found[0, 1], abs=0.01)
    np.testing.assert_allclose(fitted.predict_proba(data.data[:, 0]), fitted.estimator_.predict_proba(data.data[:, 0]))


@pytest.mark.parametrize(
    ("learner", "unit"),
    [(MaxEntropyIRL(), 0.1), (MaxMarginIRL(), 1.0), (FailureAwareIRL(), 1.0)],
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
    for level, error in ((0.68, 0.1), (0.9, 0.07), (0.95, 0.05)):
        assert np.mean(np.abs(scores) < norm.ppf(0.5 + level / 2)) == pytest.approx(level, abs=error)


def test_a_reward_that_is_shrunk_by_its_penalty_says_so(data, fitted):
    shrunk = FrozenEstimator(MaxEntropyIRL(alpha=1.0).fit(data.data, data.target))
    found = LaplaceReward(shrunk).fit(data.data, data.target)
    np.testing.assert_array_equal(found.coef_, shrunk.coef_)
    np.testing.assert_allclose(found.covariance_, fitted.covariance_)
    margins, std = found.decision_function(data.data, return_std=True)
    best, own = fitted.decision_function(data.data, return_std=True)
    np.testing.assert_allclose(std, np.hypot(own, best - margins), rtol=1e-2)
    trusting = LaplaceReward(shrunk, prior="alpha").fit(data.data, data.target)
    assert np.abs(trusting.deviation_).max() < 0.01


def test_the_temperature_of_other_rewards_is_that_of_their_log_odds(data):
    learner = MaxMarginIRL(random_state=0)
    margins = cross_val_predict(learner, data.data, data.target, method="decision_function")
    logistic = LogisticRegression(C=1e6, fit_intercept=False).fit(margins[:, None], data.target)
    assert LaplaceReward(learner).fit(data.data, data.target).temperature_ == pytest.approx(
        1 / logistic.coef_[0, 0], rel=0.1
    )


# ------------------------------------------------------------------------------------------------ in scikit-learn


def test_a_pipeline_passes_return_std_on_by_metadata_routing(data):
    with config_context(enable_metadata_routing=True):
        reward = LaplaceReward(MaxMarginIRL(random_state=0)).set_decision_function_request(return_std=True)
        pipeline = make_pipeline(PairTransformer(StandardScaler()), reward).fit(data.data, data.target)
        found = pipeline.decision_function(data.data, return_std=True)
    expected = pipeline[-1].decision_function(pipeline[:-1].transform(data.data), return_std=True)
    np.testing.assert_array_equal(found, expected)
    assert pipeline.score(data.data, data.target) == np.mean((found[0] > 0) == data.target)


def test_classes_searches_labels_of_outputs_and_no_y(data, fitted):
    found = LaplaceReward().fit(data.data, np.where(data.target == 1, "win", "loss"))
    assert set(found.predict(data.data)) == {"win", "loss"}
    search = LaplaceReward(FailureAwareIRLCV(alpha=[0.01, 0.1], cv=3, random_state=0)).fit(data.data, data.target)
    np.testing.assert_array_equal(search.coef_, search.estimator_.best_estimator_.coef_)
    labels = (data.reference_reward > 0).astype(int)
    learner = FailureAwareIRL(failures="labels", random_state=0)
    found = LaplaceReward(learner).fit(data.data, data.target, output_labels=labels)
    expected = clone(learner).fit(data.data, data.target, output_labels=labels)
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    sides = np.where(data.target[:, None, None] == 1, data.data, data.data[:, ::-1])
    np.testing.assert_allclose(LaplaceReward(EXACT).fit(sides).covariance_, fitted.covariance_)


def frozen(learner, X, y):
    return LaplaceReward(FrozenEstimator(learner.fit(X, y)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda X, y: LaplaceReward(FailureAwareIRL(hidden_layer_sizes=(8,))), r"no coef_. Expected a linear reward"),
        (lambda X, y: LaplaceReward(LogisticRegression()), "LogisticRegression as estimator. Expected MaxEntropyIRL"),
        (lambda X, y: LaplaceReward(make_pipeline(MaxEntropyIRL())), "put LaplaceReward around the last step"),
        (lambda X, y: frozen(MaxEntropyIRL(), X[..., :3], y), "X has 4 features, but MaxEntropyIRL is expecting 3"),
        (lambda X, y: frozen(MaxMarginIRL(), X[:, ::-1], y), "points against the pairs.*check which class"),
        (lambda X, y: LaplaceReward(MaxMarginIRL(), prior="alpha"), "penalty is no prior of log-odds"),
        (lambda X, y: LaplaceReward(MaxEntropyIRL(alpha=0), prior="alpha"), "penalty is no prior of log-odds"),
        (lambda X, y: LaplaceReward(prior=0.0), "The 'prior' parameter"),
    ],
)
def test_unfit_settings(data, make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make(data.data, data.target).fit(data.data, data.target)


def test_unfit_rows(data, fitted):
    with pytest.raises(NotFittedError):
        LaplaceReward(FrozenEstimator(MaxEntropyIRL())).fit(data.data, data.target)
    with pytest.raises(ValueError, match="identical on both sides"):
        LaplaceReward().fit(np.ones((10, 2, 3)))
    for options in ({"y": np.ones(400)}, {"y": data.target, "sample_weight": data.target}):
        with pytest.raises(ValueError, match="one class only"):
            LaplaceReward().fit(data.data, **options)
    with pytest.raises(ValueError, match="3 features"):
        fitted.decision_function(data.data[..., :3], return_std=True)
