"""The audit's learners: tuned on whole training groups, or distilled, and one recommended. `run` reads it."""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold

from .. import metrics
from ..implicit.distilled import SHARE
from ..learning.distilled import DistilledIRL
from ..learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from ..learning.offset import separating_threshold
from ..learning.search_estimators import FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRLCV

ALPHAS = (1e-2, 1e-3, 1e-4)
# The simplest first. The search of failure weights adds 0, a reward that does not learn from failures.
SEARCHES = {
    MaxEntropyIRL: MaxEntropyIRLCV(alpha=ALPHAS),
    MaxMarginIRL: MaxMarginIRLCV(alpha=ALPHAS),
    FailureAwareIRL: FailureAwareIRLCV(alpha=ALPHAS, failure_weight=[None]),
}
N_FOLDS = 5
SEARCH_TOL = 1e-3  # a finer solution takes several times as long, and seldom changes the choice
CHANCE = 0.5  # pair accuracy, and AUC, of a coin
LOWER_IS_BETTER = ("starc",)
RATIO_REWARDS = {"DistilledReward": SHARE, "ImplicitReward": 1.0}  # with the weight of the implicit reward


def fit_tuned(X, y, groups, random_state, verbose, implicit_rewards=None):
    """Fit the learners with the parameters that predict whole training groups best.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_outputs, n_features)
        Training features.
    y, groups : ndarray of shape (n_pairs,) or (n_outputs,)
        Targets, and the group of each row.
    random_state, verbose
        Parameters of the learners.
    implicit_rewards : ndarray of shape (n_pairs, 2) or (n_outputs,), default=None
        What `DistilledIRL` learns from. None: it is left out.

    Returns
    -------
    learners : dict of str to estimator
        The fitted learners by name, the simplest first.
    tuning : dict
        ``how`` (a phrase), and ``chosen`` (the parameters by learner; empty if there are too few groups to choose).
    """
    settings = {"random_state": random_state, "verbose": verbose}
    learners = {}
    if implicit_rewards is not None:
        learners["DistilledIRL"] = fit_distilled(X, y, groups, implicit_rewards)
    n_groups = min(len(np.unique(groups[y == name])) for name in np.unique(y))
    if n_groups < N_FOLDS:
        how = f"the defaults, since one class has {n_groups} training groups, and {N_FOLDS} folds need {N_FOLDS}"
        learners |= {learner.__name__: learner(**settings).fit(X, y) for learner in SEARCHES}
        return learners, {"how": how, "chosen": {}}
    folds = list(StratifiedGroupKFold(N_FOLDS).split(X, y, groups))
    scoring, measure = metrics.pair_log_loss_scorer, "log loss of pairs"
    if X.ndim == 2:
        scoring, measure = metrics.output_auc_scorer, "AUC of outputs"
    chosen = {}
    for learner, search in SEARCHES.items():
        search = clone(search).set_params(cv=folds, scoring=scoring, refit=False, tol=SEARCH_TOL, **settings)
        best = search.fit(X, y).best_params_
        learners[learner.__name__] = learner(**best, **settings).fit(X, y)
        chosen[learner.__name__] = best
    return learners, {"how": f"by {measure} in {N_FOLDS} folds of whole training groups", "chosen": chosen}


def fit_distilled(X, y, groups, implicit_rewards):
    """Fit `DistilledIRL` to implicit rewards.

    Parameters
    ----------
    X, y, groups : ndarray
        See `fit_tuned`.
    implicit_rewards : ndarray of shape (n_pairs, 2) or (n_outputs,)

    Returns
    -------
    learner : DistilledIRL
    """
    n_groups = len(np.unique(groups))
    folds = {"cv": min(N_FOLDS, n_groups), "groups": groups} if n_groups > 1 else {"cv": 2, "groups": None}
    learner = DistilledIRL(cv=folds["cv"])
    return learner.fit(X, y, implicit_rewards=implicit_rewards, groups=folds["groups"])


def ratio_rewards(train, distilled_train, sign, test, distilled_test):
    """Rewards that hold the implicit reward itself: alone, and as what is left of it beside the distilled reward.

    Parameters
    ----------
    train, distilled_train : ndarray of shape (n_pairs, 2) or (n_outputs,)
        Implicit and distilled rewards of training outputs: they set where 0 is.
    sign : ndarray of shape (n_pairs,) or (n_outputs,)
        1 where the first training output is preferred (the output is desirable), else -1.
    test, distilled_test : ndarray
        The same of held-out outputs.

    Returns
    -------
    rewards : dict of str to ndarray
        Held-out rewards, of `RATIO_REWARDS`.
    """
    positive = np.stack([sign, -sign], axis=1) > 0 if train.ndim == 2 else sign > 0
    found = {}
    for name, share in RATIO_REWARDS.items():
        known, held = ((1 - share) * d + share * v for d, v in ((distilled_train, train), (distilled_test, test)))
        found[name] = held - separating_threshold(known.ravel(), positive.ravel(), np.ones(known.size))
    return found


def recommend(table, rewards, held, n_resamples, random_state):
    """Recommend a reward: by held-out preferences or, if there are implicit rewards, by the reference.

    Preferences favor the ratio of the models that wrote them, whatever reward it holds. So the rewards that hold it
    take part only if there is a reference.

    Parameters
    ----------
    table : list of dict
        Of the audit: a row a reward, with an interval a measure.
    rewards : dict of str to ndarray
        Held-out rewards.
    held : Bunch
        The held-out rows.
    n_resamples, random_state : int
        Of the bootstrap.

    Returns
    -------
    choice : dict
        What `choose` returns, ``by`` ("preferences" or "the reference"), ``left_out`` (the rewards that took no
        part) and ``failures`` (of how much `FailureAwareIRL` is better than `MaxEntropyIRL`, and the measure).
    """
    rows = {row["reward"]: row for row in table if not row["null"]}
    some = next(iter(rows.values()))
    by_reference = "ImplicitReward" in rows and some["starc"] is not None
    if not by_reference:
        rows = {name: row for name, row in rows.items() if name not in RATIO_REWARDS}
    measures = ("label_auc", "starc") if by_reference else ("pair_accuracy", "output_auc")

    def difference(measure, *names):
        settings = {"groups": held.groups, "n_resamples": n_resamples, "random_state": random_state}
        first, second = (rewards[name] for name in names)
        if measure == "starc":  # the lower, the better
            sides, metric = ((second, held.reference_reward), (first, held.reference_reward)), metrics.starc_distance
            return metrics.bootstrap_difference(metric, *sides, **settings)
        if measure == "pair_accuracy":
            first, second = (both[:, 0] - both[:, 1] for both in (first, second))
            return metrics.bootstrap_difference(metrics.pair_accuracy, (held.y, first), (held.y, second), **settings)
        labels = {"output_labels": held.labels} if measure == "label_auc" else {}
        sides = (held.y, first), (held.y, second)
        return metrics.bootstrap_difference(metrics.output_auc_score, *sides, metric_params=labels, **settings)

    chance = "output_auc" if some["pair_accuracy"] is None else "pair_accuracy"
    scores = {name: {reward: row[name] for reward, row in rows.items()} for name in measures if some[name]}
    found = choose(scores, difference, {reward: row[chance] for reward, row in rows.items()})
    return {
        **found,
        "by": "the reference" if by_reference else "preferences",
        "left_out": [name for name in rewards if name not in rows],
        "failures": {"measure": chance, "difference": difference(chance, "FailureAwareIRL", "MaxEntropyIRL")},
    }


def shown_reward(choice):
    """Name the reward that a report is about: the recommended one, or the best of those that are not good enough.

    Parameters
    ----------
    choice : dict
        From `recommend`.

    Returns
    -------
    name : str
    """
    return choice["use"] or min(choice["below_best"], key=lambda row: row["clearly"])["reward"]


def choose(scores, difference, chance=None):
    """Recommend a reward: the simplest of those that are clearly below the best in the fewest measures.

    Parameters
    ----------
    scores : dict of str to dict of str to BootstrapInterval
        By measure and reward. The most important measure and the simplest reward come first.
    difference : callable
        Of a measure and the names of two rewards: the `BootstrapInterval` of how far the first is better than the
        second.
    chance : dict of str to BootstrapInterval, default=None
        The scores of which 1/2 is chance. None: those of the first measure.

    Returns
    -------
    choice : dict
        ``use`` (its name; None if it is not clearly above chance), and ``below_best``: for each reward a dict of
        ``reward``, ``clearly`` (in how many measures the interval excludes 0), and by measure the `BootstrapInterval`
        of how far it is below the best (None: it is the best).
    """
    best = {
        measure: (min if measure in LOWER_IS_BETTER else max)(found, key=lambda name: found[name].estimate)
        for measure, found in scores.items()
    }
    rows = []
    for name in next(iter(scores.values())):
        below = {measure: None if top == name else difference(measure, top, name) for measure, top in best.items()}
        clearly = sum(found is not None and found.low > 0 for found in below.values())
        rows.append({"reward": name, "clearly": clearly, **below})
    use = min(rows, key=lambda row: row["clearly"])["reward"]
    chance = next(iter(scores.values())) if chance is None else chance
    return {"use": use if chance[use].low > CHANCE else None, "below_best": rows}
