"""Would more pairs help: held-out accuracy of fits on parts of the training groups, and beyond them. `run` reads it.

The error of a reward falls about as a power of the number of its training rows. The curve a - b n^(-c) is fitted to
each bootstrap draw, with an exponent c that is drawn, since so few sizes do not determine it.
"""

import warnings

import numpy as np
import sklearn
from sklearn.utils import check_random_state

from ..metrics import BootstrapInterval
from ..metrics.outputs import weighted_output_auc
from ..metrics.pairs import weighted_pair_accuracy
from ..plot import COLORS
from .sections import Picture, Section, Table, score_text

HALVINGS = 3  # sizes of parts: a half, a quarter, ...
N_PARTS = 4  # fits of each size
MIN_GROUPS = 15  # in a part
EXPONENTS = (0.25, 1.0)  # of the power law: from slower than statistical error falls (1/2) to as fast as its square
N_DRAWS = 500
NOTABLE = 0.01  # a gain that is worth words


def measure_learning_curve(learner, X, y, groups, X_test, y_test, test_groups, random_state=0, known=None):
    """Score fits on parts of the training groups, and extrapolate to twice the training rows.

    Parameters
    ----------
    learner : estimator
        Fitted on all training rows.
    X : ndarray of shape (n_pairs, 2, n_features) or (n_outputs, n_features)
        Training features.
    y, groups : ndarray of shape (n_rows,)
        Targets, and the group of each row.
    X_test, y_test, test_groups : ndarray
        The same of held-out rows.
    random_state : int, default=0
        Of the parts and the draws.
    known : dict of str to ndarray, default=None
        What the learner's ``fit`` is told of each row besides, such as ``implicit_rewards``.

    Returns
    -------
    dict
        ``left_out`` (None, or why there is nothing else), ``measure`` ("pair_accuracy", or "output_auc" of outputs),
        ``points`` (a dict a fit: ``rows``, its training rows, and ``score``), ``rows`` and ``rows_twice``, ``now``
        (the score of all rows by the curve), ``twice`` (extrapolated) and ``gain`` (their difference). The last three
        are a `BootstrapInterval` over held-out groups, parts and exponents.
    """
    random = check_random_state(random_state)
    parts = [part for part in _parts(groups, random) if len(np.unique(y[part])) == 2]
    rows = np.array([len(y), *map(len, parts)])
    if len(parts) < 2:
        found = f"{len(np.unique(groups))} training groups"
        return {"left_out": f"{found} are too few: parts of {MIN_GROUPS} groups with both classes are fitted"}
    if len(np.unique(test_groups)) < 2:
        return {"left_out": "there is one held-out group, which gives no interval"}
    fits = [learner]
    with warnings.catch_warnings(action="ignore"):  # the first fit has shown them
        for part in parts:
            told = {name: values[part] for name, values in (known or {}).items()}
            fits.append(sklearn.clone(learner).fit(X[part], y[part], **told))
    weighted = weighted_pair_accuracy if X.ndim == 3 else weighted_output_auc
    metrics = [weighted(y_test, fitted.decision_function(X_test)) for fitted in fits]
    scores = np.array([metric() for metric in metrics])
    n_groups, codes = len(np.unique(test_groups)), np.unique(test_groups, return_inverse=True)[1]
    draws = np.empty((N_DRAWS, len(fits)))
    for draw in draws:
        weights = random.multinomial(n_groups, np.full(n_groups, 1 / n_groups))[codes].astype(float)
        draw[:] = [metric.evaluate(weights) for metric in metrics]
    draws = draws[~np.isnan(draws).any(axis=1)]
    intervals = {name: _interval(values, n_groups) for name, values in extrapolate(rows, scores, draws, random).items()}
    points = [{"rows": int(n), "score": float(score)} for n, score in zip(rows, scores, strict=True)]
    measure = "pair_accuracy" if X.ndim == 3 else "output_auc"
    return {
        "left_out": None,
        "measure": measure,
        "points": points,
        "rows": len(y),
        "rows_twice": 2 * len(y),
        **intervals,
    }


def _parts(groups, random):
    """Row numbers of disjoint parts of whole groups: of halves, quarters, and so on; each size from new draws."""
    names, codes = np.unique(groups, return_inverse=True)
    for halving in range(1, HALVINGS + 1):
        n_parts = 2**halving
        if len(names) < n_parts * MIN_GROUPS:
            return
        for _ in range(max(1, N_PARTS // n_parts)):
            of_group = random.permutation(len(names)) % n_parts
            for part in range(min(n_parts, N_PARTS)):
                yield np.flatnonzero(of_group[codes] == part)


def extrapolate(rows, scores, draws, random_state=0):
    """Extrapolate scores to twice the rows of the first fit.

    Parameters
    ----------
    rows : ndarray of shape (n_fits,)
        Training rows of each fit. The first one has all of them.
    scores : ndarray of shape (n_fits,)
        Scores of the fits on the same held-out rows.
    draws : ndarray of shape (n_draws, n_fits)
        The same on bootstrap draws of the held-out rows.
    random_state : int or RandomState
        Of exponents, and of the chance of a training sample.

    Returns
    -------
    curve : dict of str to ndarray of shape (n_draws,)
        ``now``, ``twice`` and ``gain``.
    """
    random = check_random_state(random_state)
    share = rows / rows[0]
    # A fit's score varies with its training sample, with a variance in proportion to 1 / rows.
    sizes = [share == size for size in np.unique(share) if (share == size).sum() > 1]
    squares = sum(np.sum((scores[same] - scores[same].mean()) ** 2 * share[same]) for same in sizes)
    variance = squares / max(1, sum(same.sum() - 1 for same in sizes))
    noisy = draws + random.normal(size=draws.shape) * np.sqrt(variance / share)
    found = np.empty((len(draws), 2))
    for draw, exponent in enumerate(random.uniform(*EXPONENTS, size=len(draws))):
        design = np.stack([np.ones_like(share), -(share**-exponent)], axis=1) * np.sqrt(share)[:, None]
        level, fall = np.linalg.lstsq(design, noisy[draw] * np.sqrt(share), rcond=None)[0]
        found[draw] = level - fall, level - fall * 2**-exponent
    found[:, 1] += random.normal(size=len(draws)) * np.sqrt(variance / 2)
    now, twice = np.clip(found, 0, 1).T
    return {"now": now, "twice": twice, "gain": twice - now}


def _interval(values, n_groups):
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975]).tolist()
    return BootstrapInterval(middle, low, high, float(values.std()), n_groups, len(values))


def learning_curve_section(result):
    """Would more pairs help."""
    found = result.learning_curve
    rows_are = result.settings["rows_are"]
    title = f"Would more {rows_are} help?"
    if found["left_out"] is not None:
        return Section(title, f"Not measured: {found['left_out']}.")
    gain, twice = found["gain"], found["twice"]
    if gain.low >= NOTABLE:
        verdict = "Yes, more of the same kind would help."
    elif gain.low > 0:
        verdict = "Probably: the gain is above 0, but it may be small."
    elif gain.high < NOTABLE:
        verdict = "Hardly: more of the same kind would not change the score by much."
    else:
        verdict = "That is open: the interval of the gain holds both 0 and more."
    measure = found["measure"]
    name = "pair accuracy" if measure == "pair_accuracy" else "AUC of outputs"
    fitted, measured, doubled = (
        _score(measure, score) for score in (found["now"].estimate, found["points"][0]["score"], twice.estimate)
    )
    words = (
        f"{verdict} With twice the training {rows_are} ({found['rows']:,} to {found['rows_twice']:,}), {name} would go "
        f"from {fitted} (fitted; measured: {measured}) to {doubled}. The gain is {_gain(measure, gain)} (95% interval)."
        " This is extrapolated by a power law, not measured. The interval in the picture is wider: it also counts "
        f"which {rows_are} are held out."
    )
    by_size = _by_share(found)
    table = Table(
        f"Held-out {name} of fits on parts of the training groups",
        [f"training {rows_are}", "fits", name, "lowest", "highest"],
        [
            [f"{rows:.0f}", f"{len(scores)}", *(_score(measure, f(scores)) for f in (np.mean, np.min, np.max))]
            for rows, scores in by_size
        ],
    )
    alt = (
        f"Held-out {name} against the number of training {rows_are}, from {by_size[0][0]:.0f} to {found['rows']}, and "
        f"extrapolated to {found['rows_twice']}: {score_text(measure, twice)}."
    )
    return Section(title, words, [Picture("learning_curve", lambda: _draw(found, name, rows_are), alt)], [table])


def _score(measure, value):
    return f"{value:.1%}" if measure == "pair_accuracy" else f"{value:.3f}"


def _gain(measure, gain):
    if measure == "pair_accuracy":
        return f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f} points"
    return f"{gain.low:+.3f} to {gain.high:+.3f}"


def _by_share(found):
    """Mean number of rows, and the scores, of the parts of each size; the smallest first."""
    shares = np.array([point["rows"] / found["rows"] for point in found["points"]])
    halvings = np.round(-np.log2(shares))
    scores = np.array([point["score"] for point in found["points"]])
    return [
        (shares[halvings == size].mean() * found["rows"], scores[halvings == size])
        for size in np.unique(halvings)[::-1]
    ]


def _draw(found, score, rows_are):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    ax.plot(*zip(*((point["rows"], point["score"]) for point in found["points"]), strict=True), ".", color=COLORS[0])
    means = [(rows, scores.mean()) for rows, scores in _by_share(found)]
    ax.plot(*zip(*means, strict=True), color=COLORS[0], label="measured")
    twice, style = found["twice"], {"color": COLORS[1], "marker": "s", "capsize": 3, "ls": ""}
    error = [[twice.estimate - twice.low], [twice.high - twice.estimate]]
    ax.errorbar(found["rows_twice"], twice.estimate, error, label="extrapolated", **style)
    ticks = [*(rows for rows, _ in means), found["rows_twice"]]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: _score(found["measure"], value))
    ax.set(xlabel=f"training {rows_are}", ylabel=score)
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure
