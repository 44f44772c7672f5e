"""Pictures in the manner of scikit-learn's displays: the margins of rewards, and the history of a fit."""

import numpy as np

from .pairs import preference_sign

__all__ = ["HistoryDisplay", "MarginDisplay"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: for color-blind readers and in gray
LINES = ("-", "--", ":", "-.")


def _in_standard_deviations(name, values):
    """Finite margins in units of their standard deviation; constant ones as they are."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        found = f"{values.shape}, {np.sum(~np.isfinite(values))} of them not finite"
        raise ValueError(f"Got margins of {name!r} of shape {found}. Expected some, all finite, of shape (n_pairs,).")
    largest = np.abs(values).max() or 1.0
    deviation = np.std(values / largest)  # of numbers up to 1: no square overflows
    return values / largest / deviation if deviation > 1e-9 else values  # less is rounding


def _bin_edges(values, n_bins):
    """Edges of about `n_bins` bins over all but the tails. 0 is an edge, and margins of exactly 0 are left of it."""
    low, high = np.quantile(values, [0.001, 0.999])
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low) / n_bins or 1.0 / n_bins
    edges = width * np.arange(np.floor(low / width) - (low == 0), np.ceil(high / width) + 1 + (high == 0))
    return edges + 1e-9 * width


class MarginDisplay:
    """Histograms of the margins of one or more rewards; pairs left of 0 are misordered.

    Parameters
    ----------
    margins : dict of str to array-like of shape (n_pairs,)
        Margins R(preferred) - R(other) by the reward's name. Of outputs: rewards, signed by the label.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from fairl_sk.plot import MarginDisplay
    >>> display = MarginDisplay.from_predictions(None, [0.3, 1.2, -0.4, 0.9], name="mine")
    >>> display.ax_.get_xlabel()
    'margin R(preferred) - R(other), in standard deviations'
    """

    def __init__(self, margins):
        self.margins = margins

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, name=None, ax=None):
        """Draw the margins of a fitted estimator or Pipeline.

        Parameters
        ----------
        estimator : estimator with ``decision_function``
        X : pairs or outputs
        y : array-like of shape (n_rows,), default=None
            See `from_predictions`.
        name : str, default=None
            Name in the legend. None: the estimator's class.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : MarginDisplay
        """
        return cls.from_predictions(y, estimator.decision_function(X), name=name or type(estimator).__name__, ax=ax)

    @classmethod
    def from_predictions(cls, y, decision, *, name="reward", ax=None):
        """Draw the margins that ``decision_function`` gave.

        Parameters
        ----------
        y : array-like of shape (n_rows,) or None
            Preferences, or labels of outputs. None: the first output is preferred in every pair.
        decision : array-like of shape (n_rows,)
            R(first) - R(second) of pairs, or R of outputs.
        name : str, default="reward"
            Name in the legend.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : MarginDisplay
        """
        decision = np.asarray(decision, dtype=float)
        return cls({name: decision * preference_sign(y, len(decision))}).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw each reward's margins in units of their own standard deviation, so that they compare.

        See `from_predictions`. A ValueError says which margins are missing or not finite.
        """
        import matplotlib.pyplot as plt

        if not self.margins:
            raise ValueError("Got no margins. Expected a dict from a reward's name to its margins.")
        scaled = {name: _in_standard_deviations(name, values) for name, values in self.margins.items()}
        place = {"loc": "best"}  # the user's axes may have a title above
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        self.ax_, self.figure_ = ax, ax.figure
        everything = np.concatenate(list(scaled.values()))
        edges = _bin_edges(everything, int(np.clip(np.sqrt(len(everything) / len(scaled)), 15, 80)))
        for index, (name, values) in enumerate(scaled.items()):
            heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)  # tails: in the outermost bins
            style = {"color": COLORS[index % len(COLORS)], "ls": LINES[index % len(LINES)], "lw": 1.8}
            self.ax_.stairs(heights, edges, label=f"{name} ({(values <= 0).mean():.1%} at or below 0)", **style)
        self.ax_.axvline(0, color="0.4", lw=1)
        self.ax_.set(xlabel="margin R(preferred) - R(other), in standard deviations", ylabel="pairs")
        self.ax_.legend(frameon=False, fontsize="small", **place)
        return self


class HistoryDisplay:
    """The rounds of a fit: losses, numbers of failures, and quantiles of the margins.

    Parameters
    ----------
    history : list of dict
        An estimator's ``history_``.

    Attributes
    ----------
    axes_ : ndarray of shape (3,) of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from fairl_sk import FailureAwareIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> from fairl_sk.plot import HistoryDisplay
    >>> data = make_preferences(100, 3, random_state=0)
    >>> display = HistoryDisplay.from_estimator(FailureAwareIRL(random_state=0).fit(data.data, data.target))
    >>> display.axes_[-1].get_xlabel()
    'round'
    """

    def __init__(self, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator):
        """Draw the history of a fitted estimator of this package.

        Parameters
        ----------
        estimator : estimator with ``history_``

        Returns
        -------
        display : HistoryDisplay

        Raises
        ------
        ValueError
            If the history has no rounds.
        """
        return cls(estimator.history_).plot()

    def plot(self):
        """Draw the losses, the failures and the margins, by round. See `from_estimator`."""
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        if not len(self.history):
            raise ValueError("Got a history without rounds. Expected an estimator's history_: fit it first.")
        self.figure_, self.axes_ = plt.subplots(3, 1, figsize=(7, 8.2), sharex=True, layout="constrained")
        losses, failures, margins = self.axes_
        column = {name: np.array([row[name] for row in self.history], dtype=float) for name in self.history[0]}
        rounds, sampled = column["round"], column["n_sampled"] > 0
        dots = {"marker": "." if len(rounds) < 10 else None}  # a line needs two rounds to be seen

        losses.plot(rounds, column["loss_base"], color=COLORS[0], label="base path, all pairs", **dots)
        if sampled.any():
            style = {"color": COLORS[1], "label": "both paths, sampled failures", **dots}
            losses.plot(rounds[sampled], column["loss_failure"][sampled], **style)
        losses.set(ylabel="mean loss")
        failures.plot(rounds, column["n_failures"], color=COLORS[1], label="failures", **dots)
        failures.plot(rounds, column["n_sampled"], color=COLORS[4], ls="--", label="sampled", **dots)
        failures.set(ylabel="pairs", ylim=(-0.03 * max(column["n_failures"].max(), 1), None))
        margins.plot(rounds, column["margin_q50"], color=COLORS[0], label="median margin", **dots)
        band = {"color": COLORS[0], "alpha": 0.2, "label": "5 % to 95 %"}
        margins.fill_between(rounds, column["margin_q05"], column["margin_q95"], **band)
        margins.plot(rounds, column["failure_threshold"], color="0.3", ls=":", label="failure threshold", **dots)
        margins.set(ylabel="margin, units of reward", xlabel="round")
        margins.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for ax in self.axes_:
            ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
        return self
