"""Which pairs to judge next: what each strategy maximizes, what is left out, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from fairl_sk import LaplaceReward, MaxEntropyIRL, MaxMarginIRL, PairTransformer, suggest_pairs
from fairl_sk.datasets import make_detox_preferences, make_preferences

STRATEGIES = ["information", "uncertainty", "diversity", "random"]
ROWS = np.arange(40)


@pytest.fixture(scope="module")
def data():
    return make_preferences(60, 4, temperature=0.5, random_state=0)


@pytest.fixture(scope="module", params=["max-entropy", "max-margin"])
def reward(request, data):
    learner = MaxEntropyIRL(temperature=0.5) if request.param == "max-entropy" else MaxMarginIRL()
    return LaplaceReward(learner).fit(data.data[40:], data.target[40:])


@pytest.fixture(scope="module")
def texts():
    corpus = make_detox_preferences(60, random_state=0)
    features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(5, random_state=0)))
    return corpus, make_pipeline(features, LaplaceReward()).fit(corpus.data[:40], corpus.target[:40])


def by_definition(reward, X, n, strategy):
    """Rows and scores by the formulas of the docstring, with all covariances."""
    d = X[:, 0] - X[:, 1]
    mean = reward.decision_function(X) / reward.temperature_
    covariance = (
        d @ (reward.covariance_ + np.outer(reward.deviation_, reward.deviation_)) @ d.T / reward.temperature_**2
    )
    noise = 1 / (expit(mean) * expit(-mean))
    target = 1 / (np.diag(covariance) + noise)
    copies = np.abs(covariance) > 0.99 * np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    chosen, scores = [], []
    for _ in range(n):
        variance = np.diag(covariance)
        if strategy == "information":
            score = (covariance**2 * target).mean(axis=1) / (variance + noise) / 2
        else:
            score = ndtr(-np.abs(mean) / np.sqrt(variance))
        score[copies[chosen].any(axis=0)] = -1
        row = int(np.argmax(score))
        chosen.append(row)
        scores.append(score[row])
        covariance = covariance - np.outer(covariance[row], covariance[row]) / (variance[row] + noise[row])
    return chosen, scores


@pytest.mark.parametrize("strategy", ["information", "uncertainty"])
def test_the_posterior_chooses_as_defined(reward, data, strategy):
    found = suggest_pairs(reward, data.data[ROWS], 8, strategy=strategy)
    rows, scores = by_definition(reward, data.data[ROWS], 8, strategy)
    np.testing.assert_allclose(found.scores, scores, rtol=2e-3)
    assert found.pairs.tolist() == rows and found[2:] == (0, 0)


def test_information_is_about_the_pairs_of_the_pool(reward):
    """Of two kinds of pairs that share no feature, the one that makes up the pool is asked about."""
    kinds = np.zeros((2, 2, 4))
    kinds[0, 0, 0] = kinds[1, 0, 1] = 1
    for kind in (0, 1):
        pool = kinds[np.repeat([kind, 1 - kind], [100, 1])]
        assert suggest_pairs(reward, pool, 1).pairs[0] < 100


def test_diversity_is_farthest_first(data):
    d = data.data[:, 0] - data.data[:, 1]
    centers = [np.zeros(4), d[3]]
    for row in suggest_pairs(None, data.data, 6, strategy="diversity", judged=[3]).pairs:
        nearest = np.min([np.minimum(np.linalg.norm(d - c, axis=1), np.linalg.norm(d + c, axis=1)) for c in centers], 0)
        assert row == np.argmax(nearest)
        centers.append(d[row])


@pytest.mark.parametrize("strategy", ["information", "diversity"])
def test_a_batch_holds_no_copies(reward, data, strategy):
    """Five copies of each pair, some with exchanged sides: a batch holds each pair once before it holds one twice."""
    few = data.data[:4]
    pool = np.concatenate([few, few[:, ::-1], few, few, few[:, ::-1]])
    first = suggest_pairs(reward, few, 4, strategy=strategy)
    found = suggest_pairs(reward, pool, 2, strategy=strategy)
    assert (found.pairs % 4).tolist() == first.pairs[:2].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_which_output_is_first_does_not_matter(reward, data, strategy):
    pool = data.data[ROWS]
    found = suggest_pairs(reward, pool, 10, strategy=strategy, random_state=0)
    turned = suggest_pairs(reward, pool[:, ::-1], 10, strategy=strategy, random_state=0)
    np.testing.assert_array_equal(found.pairs, turned.pairs)
    np.testing.assert_allclose(found.scores, turned.scores, rtol=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_judged_and_identical_pairs_are_left_out_and_counted(reward, data, strategy):
    pool = data.data[:20].copy()
    pool[7, 1] = pool[7, 0]
    found = suggest_pairs(reward, pool, 14, strategy=strategy, judged=[0, 1, 2, 3, 4, 4], random_state=1)
    assert (found.n_judged, found.n_identical) == (5, 1)
    assert sorted(found.pairs) == sorted(set(range(5, 20)) - {7})
    with pytest.raises(ValueError, match="n=15, but 14 of 20 candidate pairs are left: 5 are judged already, 1 have"):
        suggest_pairs(reward, pool, 15, strategy=strategy, judged=range(5))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_outputs_of_a_group_make_all_pairs(reward, data, strategy):
    outputs, groups = data.data[:6].reshape(12, 4), np.repeat(["b", "a", "c"], 4)
    sides = [(i, j) for group in "abc" for i in range(12) for j in range(i + 1, 12) if groups[i] == groups[j] == group]
    judged = [2, 9]
    found = suggest_pairs(
        reward,
        outputs,
        5,
        strategy=strategy,
        groups=groups,
        judged=[sides[row][::-1] for row in judged],
        random_state=0,
    )
    pairs = suggest_pairs(reward, outputs[np.array(sides)], 5, strategy=strategy, judged=judged, random_state=0)
    assert found.pairs.tolist() == [list(sides[row]) for row in pairs.pairs] and found.n_judged == 2
    one = suggest_pairs(reward, outputs[:3], 3, strategy=strategy, groups=[0, 0, 0])
    assert sorted(map(tuple, one.pairs.tolist())) == [(0, 1), (0, 2), (1, 2)]


def test_an_ensemble_is_asked_where_it_disagrees(data):
    members = [
        MaxEntropyIRL(temperature=0.5).fit(data.data[start : start + 15], data.target[start : start + 15])
        for start in (0, 15, 30)
    ]
    pool = data.data[40:]
    log_odds = np.stack([member.decision_function(pool) / 0.5 for member in members])
    found = suggest_pairs(members, pool, 1, strategy="uncertainty")
    wrong = ndtr(-np.abs(log_odds.mean(axis=0)) / log_odds.std(axis=0, ddof=1))
    assert found.pairs[0] == np.argmax(wrong) and found.scores[0] == pytest.approx(wrong.max(), rel=1e-3)
    grouped = suggest_pairs(members, pool.reshape(-1, 4), 5, groups=np.arange(40) // 2)
    assert (grouped.pairs[:, 0] // 2).tolist() == suggest_pairs(members, pool, 5).pairs.tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_texts_are_read_by_the_pipeline(texts, strategy):
    corpus, pipeline = texts
    found = suggest_pairs(pipeline, corpus.data, 5, strategy=strategy, judged=range(40), random_state=0)
    features = pipeline[:-1].transform(corpus.data)
    same = suggest_pairs(pipeline[-1], features, 5, strategy=strategy, judged=range(40), random_state=0)
    np.testing.assert_array_equal(found.pairs, same.pairs)
    table = pd.DataFrame(corpus.data, columns=["chosen", "rejected"])
    again = suggest_pairs(pipeline, table, 5, strategy=strategy, judged=range(40), random_state=0)
    np.testing.assert_array_equal(found.pairs, again.pairs)


def test_scores_are_divided_by_the_cost(texts):
    corpus, pipeline = texts
    free, lengths = suggest_pairs(pipeline, corpus.data, 60).scores[0], np.vectorize(len)(corpus.data).sum(axis=1)
    found = suggest_pairs(pipeline, corpus.data, 60, cost="length")
    same = suggest_pairs(pipeline[-1], pipeline[:-1].transform(corpus.data), 60, cost=lengths)
    np.testing.assert_array_equal(found.pairs, same.pairs)
    assert found.scores[0] <= free / lengths.min()
    assert lengths[found.pairs[:10]].mean() < lengths.mean()
    cost = np.where(np.arange(60) == 17, 1e-6, 1.0)
    assert suggest_pairs(pipeline, corpus.data, 1, cost=cost, strategy="diversity").pairs[0] == 17
    assert (
        suggest_pairs(pipeline, corpus.data[:, 0], 1, cost=cost, groups=np.arange(60) // 30).pairs[0].tolist()[1] < 30
    )


def test_of_many_candidates_the_best_is_looked_at(reward):
    pool = np.random.default_rng(0).standard_normal((12_000, 2, 4))
    found = suggest_pairs(reward, pool, 30, strategy="uncertainty", random_state=0)
    d = pool[:, 0] - pool[:, 1]
    root = reward.covariance_ + np.outer(reward.deviation_, reward.deviation_)
    wrong = ndtr(-np.abs(d @ reward.coef_) / np.sqrt(np.einsum("ij,ij->i", d @ root, d)))
    assert found.pairs[0] == np.argmax(wrong)
    assert len(set(found.pairs)) == 30
    again = suggest_pairs(reward, pool, 30, random_state=0).pairs
    np.testing.assert_array_equal(again, suggest_pairs(reward, pool, 30, random_state=0).pairs)


def test_chosen_pairs_teach_more_than_random_ones():
    """Few of the features matter and few pairs differ in them: these are found."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1000, 2, 20)) * np.where(np.arange(1000) % 10 == 0, 1.0, 0.05)[:, None, None]
    y = (rng.random(1000) < expit(3 * (X[:, 0, :3] - X[:, 1, :3]).sum(axis=1))).astype(int)
    fresh = rng.standard_normal((1000, 2, 20))
    truth = fresh[:, 0, :3].sum(axis=1) > fresh[:, 1, :3].sum(axis=1)
    start = LaplaceReward().fit(X[:20], y[:20])
    scores = {}
    for strategy in ("information", "random"):
        rows = np.append(
            np.arange(20), suggest_pairs(start, X, 60, strategy=strategy, judged=range(20), random_state=0)[0]
        )
        scores[strategy] = np.mean((LaplaceReward().fit(X[rows], y[rows]).decision_function(fresh) > 0) == truth)
    assert scores["information"] > scores["random"] + 0.05


BAD = {
    "strategy": ({"strategy": "bald"}, "strategy='bald'. Expected one of 'information'"),
    "n": ({"n": 0}, "Found n=0. Expected a whole number above 0"),
    "too many": ({"n": 41}, "n=41, but 40 of 40 candidate pairs are left"),
    "rows": ({"judged": [40]}, "row 40 in judged. Expected rows of candidates, from 0 to 39"),
    "negative": ({"judged": [-1, 2]}, "row -1 in judged"),
    "pairs of rows": ({"judged": [(0, 1)]}, r"judged of shape \(1, 2\). Expected rows of candidates, \(n_judged,\)"),
    "groups of pairs": (
        {"groups": ROWS},
        "pairs with groups. Expected pairs without groups, or outputs with the group",
    ),
    "cost": ({"cost": "words"}, "cost='words'. Expected 'length', or 40 numbers above 0"),
    "free": ({"cost": np.zeros(40)}, "Expected 'length', or 40 numbers above 0"),
    "length": ({"cost": "length"}, "cost='length' for features. Expected texts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(reward, data, case):
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        suggest_pairs(reward, data.data[ROWS], **{"n": 3, **changed})


def test_bad_candidates_are_refused(reward, data, texts):
    outputs = data.data[:, 0]
    for groups, message in (
        (np.arange(60), "60 outputs in 60 groups, which make 0 pairs. Expected between 1 and 500000"),
        (np.arange(5), r"groups of shape \(5,\) for 60 outputs"),
        (None, "outputs without groups"),
    ):
        with pytest.raises(ValueError, match=message):
            suggest_pairs(reward, outputs, 3, groups=groups)
    with pytest.raises(
        ValueError, match="1200 outputs in 1 groups, which make 719400 pairs. Expected between 1 and 5000"
    ):
        suggest_pairs(reward, np.repeat(outputs, 20, axis=0), 1, groups=np.zeros(1200))
    with pytest.raises(ValueError, match=r"Found \(0, 3\) in judged. Expected the rows of two outputs of one group"):
        suggest_pairs(reward, outputs, 3, groups=np.arange(60) // 2, judged=[(3, 0)])
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        suggest_pairs(reward, data.data[:0], 3)
    with pytest.raises(ValueError, match="texts as candidates for LaplaceReward, which reads features"):
        suggest_pairs(reward, texts[0].data, 3)
    with pytest.raises(ValueError, match="3 features.*expecting 4 features"):
        suggest_pairs(reward, data.data[..., :3], 3)


def test_a_reward_without_uncertainty_is_refused_with_what_has_one(data):
    learner = MaxEntropyIRL().fit(data.data, data.target)
    pipeline = make_pipeline(PairTransformer(), MaxMarginIRL()).fit(data.data, data.target)
    for estimator in (learner, pipeline, None):
        with pytest.raises(
            ValueError, match=r"no standard deviations.*Expected a LaplaceReward, a Pipeline .*ensemble"
        ):
            suggest_pairs(estimator, data.data, 3)
        assert len(suggest_pairs(estimator, data.data, 3, strategy="diversity").pairs) == 3
    wrapped = LaplaceReward(FrozenEstimator(learner)).fit(data.data, data.target)
    assert len(suggest_pairs(wrapped, data.data, 3).pairs) == 3
    with pytest.raises(ValueError, match="an ensemble of 1. Expected at least two"):
        suggest_pairs([learner], data.data, 3)
    with pytest.raises(ValueError, match="not fitted"):
        suggest_pairs(LaplaceReward(), data.data, 3)
