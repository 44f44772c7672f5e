"""Display classes in scikit-learn's manner: margins of pairs, and the history of a fit; for reports and notebooks.

Matplotlib is imported when something is drawn, not before.
"""

import numpy as np

from .pairs import preference_sign

__all__ = ["HistoryDisplay", "MarginDisplay"]

# Chosen to be told apart in grey and by colour-blind readers (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_LINES = ("-", "--", ":", "-.")  # where outlines coincide, the one below shows through the gaps

# A spread below this share of the largest margin is rounding: such margins are constant.
_CONSTANT = 1e-9


def _axes(ax, n_rows=1):
    """The axes to draw on, and how to place legends: above axes of our own, inside those of the user, who may
    have put a title above."""
    import matplotlib.pyplot as plt

    if ax is not None:
        axes = np.atleast_1d(ax)
        if axes.shape != (n_rows,):
            raise ValueError(f"Got axes of shape {axes.shape}. Expected {n_rows} matplotlib Axes in one row.")
        return axes, {"loc": "best"}
    figsize = (7, 2.4 * n_rows + 1)
    axes = np.atleast_1d(plt.subplots(n_rows, 1, figsize=figsize, sharex=True, layout="constrained")[1])
    return axes, {"loc": "lower left", "bbox_to_anchor": (0, 1)}


def _check_margins(margins):
    """Finite margins by name, at least one of each."""
    checked = {name: np.asarray(values, dtype=float) for name, values in margins.items()}
    if not checked:
        raise ValueError("Got no margins. Expected a dict from a reward's name to its margins.")
    for name, values in checked.items():
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise ValueError(
                f"Got margins of {name!r} of shape {values.shape}, {np.sum(~np.isfinite(values))} of them not finite. "
                "Expected finite numbers of shape (n_pairs,), n_pairs > 0: drop the other rows."
            )
    return checked


def _in_deviations(values):
    """Margins in units of their standard deviation; constant ones in the reward's own unit."""
    largest = np.abs(values).max() or 1.0
    deviation = np.std(values / largest)  # scaled, so that no square overflows
    return values / largest / deviation if deviation > _CONSTANT else values


def _bin_edges(values, n_bins):
    """About `n_bins` bins of one width over all but the tails, such that no bin lies on both sides of 0.

    The edge at 0 is just above it, so that margins of exactly 0 count on the left, with the misordered.
    """
    low, high = np.quantile(values, [0.001, 0.999])
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low) / n_bins or 1.0 / n_bins
    edges = width * np.arange(np.floor(low / width) - (low == 0), np.ceil(high / width) + 1 + (high == 0))
    return edges + 1e-9 * width


class MarginDisplay:
    """Histogram of margins, one outline a reward; what lies left of 0 is misordered.

    Parameters
    ----------
    margins : dict of str to array-like of shape (n_pairs,)
        Margins R(preferred) - R(other) by the reward's name. For outputs: the reward, signed by its label.

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
        name : str, default=None
            Name in the legend; the estimator's class by default.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : MarginDisplay
        """
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(y, estimator.decision_function(X), name=name, ax=ax)

    @classmethod
    def from_predictions(cls, y, decision, *, name="reward", ax=None):
        """Draw margins from what ``decision_function`` gave.

        Parameters
        ----------
        y : array-like of shape (n_rows,) or None
            Preferences (None: the first is preferred everywhere).
        decision : array-like of shape (n_rows,)
            R(first) - R(second) of pairs.
        name : str, default="reward"
            Name in the legend.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : MarginDisplay
        """
        decision = np.asarray(decision, dtype=float)
        return cls({name: decision * preference_sign(y, len(decision))}).plot(ax=ax)

    def plot(self, *, ax=None, bins="auto"):
        """Draw, each reward's margins in units of their own standard deviation so that outlines compare.

        Margins that are all equal have none and stay in the reward's own unit.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        bins : int or "auto", default="auto"
            Number of bins, about: 0 is always an edge. "auto": the root of the number of pairs, between 15 and 80.

        Returns
        -------
        self : MarginDisplay

        Raises
        ------
        ValueError
            If there are no margins, or some that are not finite.
        """
        margins = _check_margins(self.margins)
        (self.ax_,), place = _axes(ax)
        self.figure_ = self.ax_.figure
        scaled = {name: _in_deviations(values) for name, values in margins.items()}
        everything = np.concatenate(list(scaled.values()))
        if bins == "auto":
            bins = int(np.clip(np.sqrt(len(everything) / len(scaled)), 15, 80))
        edges = _bin_edges(everything, bins)
        for index, (name, values) in enumerate(scaled.items()):
            label = f"{name} ({(values <= 0).mean():.1%} at or below 0)"
            inside = np.clip(values, edges[0], edges[-1])  # tails count in the outermost bins
            heights = np.histogram(inside, edges)[0]
            style = {"color": _COLOURS[index % len(_COLOURS)], "ls": _LINES[index % len(_LINES)]}
            self.ax_.stairs(heights, edges, lw=1.8, label=label, **style)
        self.ax_.axvline(0, color="0.4", lw=1)
        self.ax_.set(xlabel="margin R(preferred) - R(other), in standard deviations", ylabel="pairs")
        self.ax_.legend(frameon=False, fontsize="small", **place)
        return self


class HistoryDisplay:
    """What a fit did, round by round: losses, numbers of failures, quantiles of the margins.

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
    def from_estimator(cls, estimator, *, axes=None):
        """Draw the history of a fitted estimator of this package.

        Parameters
        ----------
        estimator : estimator with ``history_``
        axes : array of 3 matplotlib Axes, default=None

        Returns
        -------
        display : HistoryDisplay
        """
        return cls(estimator.history_).plot(axes=axes)

    def plot(self, *, axes=None):
        """Draw.

        Parameters
        ----------
        axes : array of 3 matplotlib Axes, default=None

        Returns
        -------
        self : HistoryDisplay

        Raises
        ------
        ValueError
            If the history has no rounds, or `axes` are not three.
        """
        from matplotlib.ticker import MaxNLocator

        if not len(self.history):
            raise ValueError("Got a history without rounds. Expected an estimator's history_: fit it first.")
        self.axes_, place = _axes(axes, n_rows=3)
        self.figure_ = self.axes_[0].figure
        column = {name: np.array([row[name] for row in self.history], dtype=float) for name in self.history[0]}
        rounds = column["round"]
        losses, failures, margins = self.axes_
        sampled = column["n_sampled"] > 0
        dots = {"marker": "." if len(rounds) < 10 else None}  # a line needs two rounds to be seen
        losses.plot(rounds, column["loss_base"], color=_COLOURS[0], label="all rows, base path", **dots)
        if sampled.any():
            label = "sampled failures, both paths"
            losses.plot(rounds[sampled], column["loss_failure"][sampled], color=_COLOURS[1], label=label, **dots)
        losses.set(ylabel="mean loss")
        failures.plot(rounds, column["n_failures"], color=_COLOURS[1], label="failures", **dots)
        failures.plot(rounds, column["n_sampled"], color=_COLOURS[4], ls="--", label="sampled", **dots)
        failures.set(ylabel="pairs")
        failures.set_ylim(bottom=-0.03 * max(column["n_failures"].max(), 1))
        margins.plot(rounds, column["margin_q50"], color=_COLOURS[0], label="median margin", **dots)
        margins.fill_between(
            rounds, column["margin_q05"], column["margin_q95"], color=_COLOURS[0], alpha=0.2, label="5 % to 95 %"
        )
        margins.plot(rounds, column["failure_threshold"], color="0.3", ls=":", label="failure threshold", **dots)
        margins.set(ylabel="margin, units of reward", xlabel="round")
        margins.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for ax in self.axes_:
            ax.legend(frameon=False, fontsize="small", ncols=1 if axes is not None else 3, **place)
        return self
