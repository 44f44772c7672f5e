"""What a learner reads of the rows: differences of a pair's features, their scale, and which side is preferred."""

import numpy as np

__all__ = ["difference_scale", "preferred_first", "signed_differences"]


def preferred_first(values, sign):
    """Values of shape (n_pairs, 2) in the order (preferred, other); None stays None."""
    return None if values is None else np.where(sign[:, None] > 0, values, values[:, ::-1])


def signed_differences(X, sign):
    """Features of the preferred output minus those of the other one.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    sign : ndarray of shape (n_pairs,) or (n_samples,)
        +1 where the first output is preferred (the output is desirable), else -1.

    Returns
    -------
    differences : ndarray of shape (n_pairs, n_features) or (n_samples, n_features + 1)
        Outputs have no opponent: they are multiplied by their sign, behind them a constant that learns a bias.
    """
    if X.ndim == 3:
        differences = np.subtract(X[:, 0], X[:, 1])
    else:
        differences = np.column_stack([X, np.ones(len(X), dtype=X.dtype)])
    differences *= sign[:, None].astype(X.dtype)
    return differences


def difference_scale(differences, sample_weight):
    """Root of the mean squared length of the differences: the unit in which the net and the solvers work.

    Parameters
    ----------
    differences : ndarray of shape (n_pairs, n_features)
    sample_weight : ndarray of shape (n_pairs,)

    Returns
    -------
    scale : float
        1 where all differences are zero.

    Raises
    ------
    ValueError
        If the squares overflow or underflow.
    """
    with np.errstate(over="ignore"):
        squares = np.einsum("ij,ij->i", differences, differences, dtype=np.float64)
        scale = float(np.sqrt(np.average(squares, weights=sample_weight)))
    if not np.isfinite(scale):
        raise ValueError("The features are too large (their squares overflow): scale them, e.g. by StandardScaler.")
    if scale**2 < 1e-290 and differences[sample_weight > 0].any():
        raise ValueError("The features are too small (their squares underflow): scale them, e.g. by StandardScaler.")
    return scale or 1.0
