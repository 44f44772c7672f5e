"""The choice of a batch, one pair after another: by what the posterior leaves to learn, or by distance."""

import numpy as np
from scipy.special import expit, ndtr

_PRESELECTED = 10_000  # candidates that the choice by the posterior looks at, at least
_COPY = 0.99  # correlation of the log-odds of two pairs, of which one is enough
_CENTERS = 64  # judged pairs whose distances are computed at once
_TARGETS = 10_000  # pairs that the information is about, at most


def choose_by_posterior(mean, factor, n, effort, strategy, rng):
    """Choose pairs with the greatest score over effort; each choice updates the covariances.

    Parameters
    ----------
    mean : ndarray of shape (n_pairs,)
        Mean log-odds.
    factor : ndarray of shape (n_pairs, k), float32
        The products of its rows are the covariances of the log-odds.
    n : int
        Number of pairs to choose.
    effort : ndarray of shape (n_pairs,)
        The score is divided by it.
    strategy : {"information", "uncertainty"}
        The score; see `fairl_sk.suggest_pairs`.
    rng : RandomState
        Draws half of the candidates that are looked at, if there are many.

    Returns
    -------
    chosen : ndarray of shape (n,), int
        In the order of the choice.
    scores : ndarray of shape (n,)
        Score over effort, at the time of the choice.
    """
    targets = np.arange(len(mean))
    if len(mean) > _TARGETS:
        targets = rng.choice(targets, _TARGETS, replace=False)
    state = _Posterior(mean, factor, strategy, targets)
    looked_at = max(_PRESELECTED, 20 * n)
    rows = np.arange(len(mean))
    if len(mean) > looked_at:
        order = np.argsort(-state.scores() / effort, kind="stable")
        best, others = np.split(order, [looked_at // 2])
        rows = np.sort(np.concatenate([best, rng.choice(others, looked_at - len(best), replace=False)]))
        state.keep(rows)
    chosen, scores, copies = [], [], np.zeros(len(rows), dtype=bool)
    for _ in range(n):
        values = state.scores() / effort[rows]
        last = np.where(copies, values - 2 * values.max() - 1, values)  # copies come behind all others
        last[chosen] = -np.inf
        row = int(np.argmax(last))
        scores.append(values[row])
        chosen.append(row)
        copies |= state.copies_of(row)
        state.judge(row)
    return rows[chosen], np.array(scores)


class _Posterior:
    """Means and covariances of log-odds, and what judgments of some of the pairs do to the covariances."""

    def __init__(self, mean, factor, strategy, targets):
        self.mean, self.factor, self.strategy = mean.astype(np.float64), factor, strategy
        self.variance = np.einsum("ij,ij->i", factor, factor).astype(np.float64)
        p = expit(np.clip(self.mean, -30, 30))
        self.noise = 1 / (p * (1 - p))
        self.length = np.sqrt(self.variance)
        self.shrink = np.eye(factor.shape[1], dtype=np.float32)  # covariance = factor @ shrink @ factor.T
        weight = 1 / (self.variance + self.noise)[targets, None]
        aims = factor[targets] * np.sqrt(weight).astype(np.float32)
        self.target = aims.T @ aims / len(aims)  # the information is about the pairs with these factors
        self.gain = np.einsum("ij,ij->i", factor @ self.target, factor).astype(np.float64)

    def scores(self):
        """What the strategy maximizes, (n_pairs,)."""
        if self.strategy == "information":
            return self.gain / (self.variance + self.noise) / 2
        return ndtr(-np.abs(self.mean) / np.sqrt(np.maximum(self.variance, 1e-30)))

    def keep(self, rows):
        """Forget all other pairs, but not that the information is about them too."""
        self.mean, self.factor = self.mean[rows], self.factor[rows]
        self.variance, self.length = self.variance[rows], self.length[rows]
        self.noise, self.gain = self.noise[rows], self.gain[rows]

    def copies_of(self, row):
        """Pairs that tell the same as this one: their log-odds are almost proportional."""
        return np.abs(self.factor @ self.factor[row]) > _COPY * self.length * self.length[row]

    def judge(self, row):
        """The covariances after a judgment of this pair."""
        towards = self.shrink @ self.factor[row] / np.float32(np.sqrt(self.variance[row] + self.noise[row]))
        aimed = self.shrink @ (self.target @ towards)
        along, over = (self.factor @ np.stack([towards, aimed], axis=1)).astype(np.float64).T
        self.gain = np.maximum(self.gain - 2 * along * over + float(towards @ self.target @ towards) * along**2, 0)
        self.variance = np.maximum(self.variance - along**2, 0)
        self.shrink -= np.outer(towards, towards)


def choose_by_distance(differences, judged, n, effort):
    """Choose the pair that is farthest from those chosen or judged and from 0, n times.

    Parameters
    ----------
    differences : ndarray of shape (n_pairs, n_features), float32
        Features of the first minus the second output.
    judged : ndarray of shape (n_judged, n_features), float32
        The same of judged pairs.
    n : int
        Number of pairs to choose.
    effort : ndarray of shape (n_pairs,)
        The distance is divided by it.

    Returns
    -------
    chosen : ndarray of shape (n,), int
        In the order of the choice.
    scores : ndarray of shape (n,)
        Distance over effort, at the time of the choice.
    """
    squares = np.einsum("ij,ij->i", differences, differences)
    nearest = squares.copy()

    def approach(centers):
        """Either order of the outputs of a pair counts: d and -d are one."""
        distances = np.abs(differences @ centers.T)
        distances *= -2
        distances += np.einsum("ij,ij->i", centers, centers)
        np.minimum(nearest, np.maximum(squares + distances.min(axis=1), 0), out=nearest)

    for start in range(0, len(judged), _CENTERS):
        approach(judged[start : start + _CENTERS])
    chosen, scores = [], []
    for _ in range(n):
        values = np.sqrt(nearest) / effort
        values[chosen] = -np.inf
        chosen.append(int(np.argmax(values)))
        scores.append(values[chosen[-1]])
        approach(differences[chosen[-1:]])
    return np.array(chosen), np.array(scores, dtype=np.float64)
