"""Tests over groups, and their correction for the number tried. The audit's claims rest on them."""

import numpy as np
from scipy import special, stats


def group_p_value(values, groups, *, alternative="two-sided"):
    """P-value of "the mean is 0" where rows of a group may depend on each other.

    A t-test of the groups' sums. Its p-value is at least that of the most extreme outcome of a sign test of groups, so
    few groups never give a small one.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
    groups : ndarray of shape (n_rows,)
        Group of each row, numbered or named.
    alternative : {"two-sided", "less"}, default="two-sided"

    Returns
    -------
    float
        1 if no group has a sum other than 0.
    """
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, values)
    n_moved = int((np.abs(sums) > 1e-12).sum())
    if not n_moved:
        return 1.0
    least = 0.5 ** (n_moved - (alternative == "two-sided"))
    spread = sums.std(ddof=1) if len(sums) > 1 else 0.0
    if not spread > 1e-12:
        return min(least, 1.0) if alternative == "two-sided" or sums.sum() < 0 else 1.0
    return float(max(stats.ttest_1samp(sums, 0.0, alternative=alternative).pvalue, min(least, 1.0)))


def lower_p_value(credit, inside, groups):
    """P-value of "the mean credit is not lower inside than outside", over groups.

    A binomial test of the number of wrong rows inside, against the share of wrong rows overall. The numbers of rows are
    divided by the design effect of the groups, and shrunk for the uncertainty of that share.

    Parameters
    ----------
    credit : ndarray of shape (n_rows,)
        1 for a pair in the right order, 0 for one in the wrong order, 1/2 for a tie.
    inside : ndarray of shape (n_rows,), bool
    groups : ndarray of shape (n_rows,)

    Returns
    -------
    float
        1 if all rows are on one side.
    """
    n_rows, n_inside = len(credit), int(inside.sum())
    wrong = 1 - credit[inside].mean() if n_inside else 0.0
    if n_inside in (0, n_rows) or wrong == 0:
        return 1.0
    away = credit - credit.mean()
    design = max(1.0, _design_effect(away, groups), _design_effect(away[inside], groups[inside]))
    n_effective = n_inside * (n_rows - n_inside) / n_rows / design
    n_wrong = n_effective * wrong
    return float(special.betainc(n_wrong, n_effective - n_wrong + 1, 1 - credit.mean()))


def _design_effect(away, groups):
    """How much more the mean varies than that of independent rows: squares of the groups' sums over squares of rows."""
    squares = np.square(away).sum()
    _, codes = np.unique(groups, return_inverse=True)
    return np.square(np.bincount(codes, away)).sum() / squares if squares > 0 else 1.0


def holm(p_values):
    """P-values corrected for the number of tests, by the step-down rule of Holm (1979).

    Parameters
    ----------
    p_values : array-like of shape (n_tests,)

    Returns
    -------
    ndarray of shape (n_tests,)
        The probability of any false claim is at most 5 % if those below 0.05 are claimed.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty_like(p_values)
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
