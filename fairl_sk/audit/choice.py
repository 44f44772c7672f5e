"""The audit's learners: tuned on whole training groups, and one of them recommended. `run` reads it."""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold

from .. import metrics
from ..learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
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


def fit_tuned(X, y, groups, random_state, verbose):
    """Fit the three learners with the parameters that predict whole training groups best.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_outputs, n_features)
        Training features.
    y, groups : ndarray of shape (n_pairs,) or (n_outputs,)
        Targets, and the group of each row.
    random_state, verbose
        Parameters of the learners.

    Returns
    -------
    learners : dict of str to estimator
        The fitted learners by name, the simplest first.
    tuning : dict
        ``how`` (a phrase), and ``chosen`` (the parameters by learner; empty if there are too few groups to choose).
    """
    settings = {"random_state": random_state, "verbose": verbose}
    n_groups = min(len(np.unique(groups[y == name])) for name in np.unique(y))
    if n_groups < N_FOLDS:
        how = f"the defaults, since one class has {n_groups} training groups, and {N_FOLDS} folds need {N_FOLDS}"
        return {learner.__name__: learner(**settings).fit(X, y) for learner in SEARCHES}, {"how": how, "chosen": {}}
    folds = list(StratifiedGroupKFold(N_FOLDS).split(X, y, groups))
    scoring, measure = metrics.pair_log_loss_scorer, "log loss of pairs"
    if X.ndim == 2:
        scoring, measure = metrics.output_auc_scorer, "AUC of outputs"
    learners, chosen = {}, {}
    for learner, search in SEARCHES.items():
        search = clone(search).set_params(cv=folds, scoring=scoring, refit=False, tol=SEARCH_TOL, **settings)
        best = search.fit(X, y).best_params_
        learners[learner.__name__] = learner(**best, **settings).fit(X, y)
        chosen[learner.__name__] = best
    return learners, {"how": f"by {measure} in {N_FOLDS} folds of whole training groups", "chosen": chosen}


def choose(scores, difference):
    """Recommend a reward: the simplest of those that are clearly below the best in the fewest measures.

    Parameters
    ----------
    scores : dict of str to dict of str to BootstrapInterval
        By measure and reward: pair accuracy, or AUC, on held-out rows. The most important measure and the simplest
        reward come first.
    difference : callable
        Of a measure and the names of two rewards: the `BootstrapInterval` of how far the first is above the second.

    Returns
    -------
    choice : dict
        ``use`` (its name; None if it is not clearly above chance in the first measure), and ``below_best``: for each
        reward a dict of ``reward``, ``clearly`` (in how many measures the interval excludes 0), and by measure the
        `BootstrapInterval` of how far it is below the best (None: it is the best).
    """
    best = {measure: max(found, key=lambda name: found[name].estimate) for measure, found in scores.items()}
    first = next(iter(scores))
    rows = []
    for name in scores[first]:
        below = {measure: None if top == name else difference(measure, top, name) for measure, top in best.items()}
        clearly = sum(found is not None and found.low > 0 for found in below.values())
        rows.append({"reward": name, "clearly": clearly, **below})
    use = min(rows, key=lambda row: row["clearly"])["reward"]
    return {"use": use if scores[first][use].low > CHANCE else None, "below_best": rows}
