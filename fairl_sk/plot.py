"""Display classes in scikit-learn's manner: margins of pairs, and the history of a fit; for reports and notebooks.

Matplotlib is imported when something is drawn, not before.
"""

import numpy as np

from .pairs import preference_sign

__all__ = ["HistoryDisplay", "MarginDisplay"]

# Chosen to be told apart in grey and by colour-blind readers (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def _axes(ax, n_rows=1):
    import matplotlib.pyplot as plt

    if ax is not None:
        return np.atleast_1d(ax)
    return np.atleast_1d(plt.subplots(n_rows, 1, figsize=(7, 2.4 * n_rows + 1), sharex=True, layout="constrained")[1])


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

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        bins : int or "auto", default="auto"
            Number of bins. "auto": the root of the number of pairs, between 15 and 80.

        Returns
        -------
        self : MarginDisplay
        """
        (self.ax_,) = _axes(ax)
        self.figure_ = self.ax_.figure
        scaled = {name: values / (np.std(values) or 1.0) for name, values in self.margins.items()}
        everything = np.concatenate(list(scaled.values()))
        if bins == "auto":
            bins = int(np.clip(np.sqrt(len(everything) / len(scaled)), 15, 80))
        edges = np.linspace(*np.quantile(everything, [0.001, 0.999]), bins + 1)
        if edges[0] == edges[-1]:
            edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, bins + 1)
        for index, (name, values) in enumerate(scaled.items()):
            label = f"{name} ({(values <= 0).mean():.1%} at or below 0)"
            values = np.clip(values, edges[0], edges[-1])  # tails count in the outermost bins
            self.ax_.hist(values, edges, histtype="step", lw=1.8, color=_COLOURS[index % len(_COLOURS)], label=label)
        self.ax_.axvline(0, color="0.4", lw=1, ls="--")
        self.ax_.set(xlabel="margin R(preferred) - R(other), in standard deviations", ylabel="pairs")
        self.ax_.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
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
        """
        self.axes_ = _axes(axes, n_rows=3)
        self.figure_ = self.axes_[0].figure
        column = {name: np.array([row[name] for row in self.history], dtype=float) for name in self.history[0]}
        rounds = column["round"]
        losses, failures, margins = self.axes_
        sampled = column["n_sampled"] > 0
        losses.plot(rounds, column["loss_base"], color=_COLOURS[0], label="all pairs, base path")
        if sampled.any():
            losses.plot(
                rounds[sampled],
                column["loss_failure"][sampled],
                color=_COLOURS[1],
                label="sampled failures, both paths",
            )
        losses.set(ylabel="mean loss")
        failures.plot(rounds, column["n_failures"], color=_COLOURS[1], label="failures")
        failures.plot(rounds, column["n_sampled"], color=_COLOURS[4], ls="--", label="sampled")
        failures.set(ylabel="pairs")
        margins.plot(rounds, column["margin_q50"], color=_COLOURS[0], label="median margin")
        margins.fill_between(
            rounds, column["margin_q05"], column["margin_q95"], color=_COLOURS[0], alpha=0.2, label="5 % to 95 %"
        )
        margins.plot(rounds, column["failure_threshold"], color="0.3", ls=":", label="failure threshold")
        margins.set(ylabel="margin, units of reward", xlabel="round")
        for ax in self.axes_:
            ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        return self
