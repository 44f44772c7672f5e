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
    """Which reward to use: the simplest that is not clearly worse than the best.

    Parameters
    ----------
    scores : dict of str to BootstrapInterval
        Held-out pair accuracy, or AUC, of each reward, the simplest first.
    difference : callable
        Of the names of two rewards: the `BootstrapInterval` of the first one's score above the second one's.

    Returns
    -------
    choice : dict
        ``use`` (None if no such reward is clearly better than chance), ``best``, and ``best_is_above_by`` (a
        `BootstrapInterval` for each other reward). Clearly: the interval excludes 0, or chance.
    """
    best = max(scores, key=lambda name: scores[name].estimate)
    above = {name: difference(best, name) for name in scores if name != best}
    as_good = [name for name in scores if name == best or above[name].low <= 0]
    use = next((name for name in as_good if scores[name].low > CHANCE), None)
    return {"use": use, "best": best, "best_is_above_by": above}
