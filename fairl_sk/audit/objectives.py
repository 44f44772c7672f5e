"""Several objectives: which of them people preferred, where they conflict, and which the reward follows.

`run` adds the result to the audit, and `page` its section.
"""

from itertools import combinations

import numpy as np

from .sections import Section, Table


def measure_objectives(data, test, held, margins, interval):
    """Conflicts of objectives in all pairs, and how often the reward decides as each objective in held-out pairs.

    Parameters
    ----------
    data : Bunch
        With ``targets`` (n_pairs, n_objectives) and ``objective_names``, as `load_preferences` gives them, or without.
    test : ndarray of shape (n_test,)
        The held-out rows.
    held : Bunch
        Their ``sign`` and ``groups``.
    margins : ndarray of shape (n_test,)
        Held-out margins of the reward.
    interval : callable
        `fairl_sk.metrics.bootstrap_interval` with its settings.

    Returns
    -------
    dict or None
        None without objectives. ``objectives``: a row an objective, with the pairs that it decides and the ``accuracy``
        of the reward in the held-out ones. ``conflicts``: a row for each two, with the pairs that ``both`` decide and
        the ``rate`` of those in which they decide against each other.
    """
    targets = data.get("targets")
    if targets is None:
        return None
    sides = np.sign(2 * np.nan_to_num(targets, nan=0.5) - 1)  # +1: the first output; 0: a tie, or not judged
    names, reward = data["objective_names"], np.sign(margins * held.sign)
    rows = [
        {
            "objective": name,
            "decided": int(np.count_nonzero(sides[:, k])),
            "accuracy": _share(reward == sides[test, k], sides[test, k] != 0, held.groups, interval),
        }
        for k, name in enumerate(names)
    ]
    conflicts = []
    for k, other in combinations(range(len(names)), 2):
        both = sides[:, k] * sides[:, other]
        rate = _share(both < 0, both != 0, data["groups"], interval)
        conflicts.append({"objectives": [names[k], names[other]], "both": int(np.count_nonzero(both)), "rate": rate})
    return {"objectives": rows, "conflicts": conflicts}


def _share(found, among, groups, interval):
    """The share of some rows with its interval; None of fewer than two groups."""
    if len(np.unique(groups[among])) < 2:
        return None
    return interval(_mean, found[among].astype(float), groups=groups[among])


def _mean(values, sample_weight):
    return np.average(values, weights=sample_weight)


def objectives_section(result):
    """Where the objectives conflict; None without several of them."""
    found = result.get("objectives")
    if found is None:
        return None
    known = [row for row in found["conflicts"] if row["rate"] is not None]
    words = "No two objectives decide the same pairs."
    if known:
        worst = max(known, key=lambda row: row["rate"].estimate)
        words = f"Where both decide, {' and '.join(worst['objectives'])} decide against each other in "
        words += f"{_percent(worst['rate'])} of the pairs{', most often of any two' if len(known) > 1 else ''}."
    words += (
        " No single reward satisfies both sides of a conflict: fairl_sk.MultiObjectiveIRL learns one reward for each "
    )
    words += "objective and weighs them."
    conflicts = [
        [" and ".join(row["objectives"]), f"{row['both']}", _percent(row["rate"])] for row in found["conflicts"]
    ]
    follows = [[row["objective"], f"{row['decided']}", _percent(row["accuracy"])] for row in found["objectives"]]
    tables = [
        Table(
            "Objectives that decide against each other", ["objectives", "pairs that both decide", "against"], conflicts
        ),
        Table(
            "How often the reward decides as an objective", ["objective", "pairs decided", "held-out accuracy"], follows
        ),
    ]
    return Section("Do the objectives conflict?", words, tables=tables)


def _percent(rate):
    return "too few" if rate is None else f"{rate.estimate:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
