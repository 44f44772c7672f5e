"""The audit's learners: tuned on whole training groups, and compared on held-out ones. Read by `run` and `tables`."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from .. import metrics
from ..learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from ..learning.search_estimators import FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRLCV

# From the simplest to the most complex. `None` among failure weights is the default; the search adds 0.
SEARCHES = {
    MaxEntropyIRL: (MaxEntropyIRLCV, {}),
    MaxMarginIRL: (MaxMarginIRLCV, {}),
    FailureAwareIRL: (FailureAwareIRLCV, {"failure_weight": [None]}),
}
ALPHAS = (1e-2, 1e-3, 1e-4)
N_FOLDS = 5
CHANCE = 0.5  # pair accuracy, and AUC, of a coin
SEARCH_TOL = 1e-3  # a finer solution changes no choice of alpha, and takes several times as long


def fit_tuned(X, y, groups, random_state, verbose):
    """The three learners by name, fitted with the parameters that predict whole training groups best; and how chosen.

    Pairs are predicted well if their log loss is low, outputs if their AUC is high.
    """
    settings = {"random_state": random_state, "verbose": verbose}
    n_groups = min(len(np.unique(groups[y == name])) for name in np.unique(y))
    if n_groups < N_FOLDS:
        learners = {learner.__name__: learner(**settings).fit(X, y) for learner in SEARCHES}
        return learners, {"not_tuned": f"{n_groups} training groups of a class, and {N_FOLDS} folds need {N_FOLDS}"}
    folds = list(StratifiedGroupKFold(N_FOLDS).split(X, y, groups))
    scoring = metrics.pair_log_loss_scorer if X.ndim == 3 else metrics.output_auc_scorer
    learners, chosen = {}, {}
    for learner, (search, grid) in SEARCHES.items():
        grid = {"alpha": ALPHAS, **grid}
        found = search(**grid, cv=folds, scoring=scoring, refit=False, tol=SEARCH_TOL, **settings).fit(X, y)
        learners[learner.__name__] = learner(**found.best_params_, **settings).fit(X, y)
        chosen[learner.__name__] = found.best_params_
    by = "log loss of the pairs" if X.ndim == 3 else "AUC of the outputs"
    return learners, {"not_tuned": None, "by": f"{by} in {N_FOLDS} folds of whole training groups", "chosen": chosen}


def choose(scores, measure, rewards, held, n_resamples, random_state):
    """Which reward to use, by held-out preferences only, and how sure that is.

    Parameters
    ----------
    scores : dict of str to BootstrapInterval
        The measure of each learner's reward, the simplest learner first.
    measure : {"pair_accuracy", "output_auc"}
        The measure that decides.
    rewards : dict of str to ndarray
        Held-out rewards by learner: (n_pairs, 2) or (n_outputs,).
    held : Bunch
        Held-out ``y`` and ``groups``.
    n_resamples, random_state
        See `fairl_sk.metrics.bootstrap_difference`.

    Returns
    -------
    choice : dict
        ``use`` (the simplest reward that is not surely worse than the best, or None if it is not surely better than
        chance), ``simplest`` (the same without that check), ``best``, ``measure``, and ``differences`` (a dict for
        each other reward: how much the best is above it).
    """
    metric = {"pair_accuracy": metrics.pair_accuracy, "output_auc": metrics.output_auc_score}[measure]
    if measure == "pair_accuracy":
        rewards = {name: values[:, 0] - values[:, 1] for name, values in rewards.items()}
    best = max(scores, key=lambda name: scores[name].estimate)
    settings = {"groups": held.groups, "n_resamples": n_resamples, "random_state": random_state}
    above = {
        name: metrics.bootstrap_difference(metric, (held.y, rewards[best]), (held.y, values), **settings)
        for name, values in rewards.items()
        if name != best
    }
    simplest = next(name for name in scores if name == best or above[name].low <= 0)
    return {
        "use": simplest if scores[simplest].low > CHANCE else None,
        "simplest": simplest,
        "best": best,
        "measure": measure,
        "differences": [{"reward": name, "best_is_above_by": difference} for name, difference in above.items()],
    }
