"""Pictures in the manner of scikit-learn's displays: margins of rewards, the history of a fit, and trade-offs."""

import numpy as np

from .pairs import is_pairs, preference_sign, split_pairs

__all__ = ["HistoryDisplay", "MarginDisplay", "ParetoDisplay"]

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
            self.ax_.stairs(heights, edges, label=f"{name} ({(values <= 0).mean():.1%} wrong)", **style)
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


class ParetoDisplay:
    """Two rewards of outputs as dots, their Pareto front as a line, and policies as marked points.

    Parameters
    ----------
    rewards : array-like of shape (n_outputs, 2)
        Rewards by two objectives, higher is better.
    names : sequence of 2 str, default=("objective 0", "objective 1")
        Names of the objectives, on the axes.
    points : dict of str to array-like of shape (2,), default=None
        Points to mark by name, such as what the policy of a weighted sum reaches (`fairl_sk.metrics.best_of_n`).

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    front_ : ndarray of shape (n_front, 2)
        The outputs on the front, by the first reward; of equal ones, one.

    Examples
    --------
    >>> from fairl_sk.plot import ParetoDisplay
    >>> display = ParetoDisplay([[1, 0], [0, 1], [0, 0]], ["helpful", "safe"], points={"equal": [0.5, 0.5]}).plot()
    >>> display.front_.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    def __init__(self, rewards, names=("objective 0", "objective 1"), points=None):
        self.rewards = rewards
        self.names = names
        self.points = points

    @classmethod
    def from_estimator(cls, estimator, X, *, objectives=(0, 1), points=None, ax=None):
        """Draw the rewards of outputs by a fitted `MultiObjectiveIRL` or a Pipeline with it, in standard deviations.

        Parameters
        ----------
        estimator : estimator
            Its ``decision_function`` gives a reward for each objective.
        X : pairs or outputs
            Of pairs, both outputs are drawn.
        objectives : (int, int), default=(0, 1)
            Columns of the two objectives.
        points : dict of str to array-like of shape (2,), default=None
            See the class; in the same units.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : ParetoDisplay
        """
        rewards = estimator.decision_function(split_pairs(X) if is_pairs(X) else X)
        model = estimator[-1] if hasattr(estimator, "steps") else estimator
        columns = list(objectives)
        names = [model.objective_names_[k] for k in columns]
        return cls((rewards / model.scale_)[:, columns], names, points).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw outputs, front and points. See `from_estimator`. A ValueError says which numbers do not fit."""
        import matplotlib.pyplot as plt

        rewards = np.asarray(self.rewards, dtype=float)
        points = {name: np.asarray(point, dtype=float) for name, point in (self.points or {}).items()}
        wrong = [name for name, point in points.items() if point.shape != (2,) or not np.isfinite(point).all()]
        if rewards.ndim != 2 or rewards.shape[1] != 2 or len(self.names) != 2 or wrong:
            found = f"rewards of shape {rewards.shape}, {len(self.names)} names and the points {wrong}"
            raise ValueError(f"Got {found}. Expected (n_outputs, 2), two names, and points of two finite numbers.")
        if not rewards.size or not np.isfinite(rewards).all():
            found = f"{len(rewards)} outputs, {np.count_nonzero(~np.isfinite(rewards))} rewards not finite"
            raise ValueError(f"Got {found}. Expected some, with finite rewards.")
        ordered = rewards[np.lexsort(-rewards.T[::-1])]  # the first objective falls; on the front the second one rises
        before = np.maximum.accumulate(np.concatenate([[-np.inf], ordered[:-1, 1]]))
        self.front_ = ordered[ordered[:, 1] > before][::-1]
        if ax is None:
            _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        ax.scatter(*rewards.T, s=9, color="0.6", linewidths=0, alpha=0.6, label="outputs")
        ax.plot(*self.front_.T, color=COLORS[0], lw=1.4, marker=".", label="Pareto front")
        for index, (name, point) in enumerate(points.items()):
            ax.plot(
                *point, ls="", marker="osD^v"[index % 5], color=COLORS[1 + index % 4], markeredgecolor="w", label=name
            )
        ax.set(xlabel=self.names[0], ylabel=self.names[1])
        ax.legend(frameon=False, fontsize="small")
        return self
