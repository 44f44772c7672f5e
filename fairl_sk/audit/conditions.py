"""Conditions on the figures of an audit, such as ``reference_correlation<0.6``, and their outcomes as JUnit XML."""

import math
import operator
import re
from typing import NamedTuple
from xml.etree import ElementTree

from .measures import MEASURES

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CONDITION = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")
_REMEDIES = {
    "reference": "See what else the alignment changed; stop the training earlier, raise its KL penalty, or mend its "
    "reward.",
    "times_noise": "Check that the aligned model was trained, and longer than this.",
    "kl": "Stop the training earlier, or raise its KL penalty; where KL is too small, train longer.",
    "desirable": "See the failures, and train longer or on a better reward.",
    "words": "See what else the alignment changed.",
    "tokens": "See what else the alignment changed.",
}
_OTHERWISE = "See the tables of this audit."


class Condition(NamedTuple):
    """A comparison that must not hold: the name of a figure, "<", "<=", ">" or ">=", and a limit."""

    figure: str
    comparison: str
    limit: float

    def __str__(self):
        return f"{self.figure}{self.comparison}{self.limit:g}"


class Outcome(NamedTuple):
    """A condition, the figure's value, and whether the condition holds (the audit fails)."""

    condition: Condition
    value: float
    failed: bool

    def message(self):
        """The value, the limit and a remedy."""
        found = f"{self.condition.figure} is {self.value:.4g}, and the limit is {self.condition.limit:g}"
        name = self.condition.figure.rpartition("/")[2]
        remedy = next((text for key, text in _REMEDIES.items() if name.startswith(key)), _OTHERWISE)
        return f"{found} ({self.condition}). {remedy}"


def parse_condition(text):
    """Read a condition.

    Parameters
    ----------
    text : str
        Such as ``reference_correlation<0.6``.

    Returns
    -------
    condition : Condition

    Raises
    ------
    ValueError
        If it is no comparison of a name with a number.
    """
    found = _CONDITION.fullmatch(text)
    try:
        return Condition(found[1], found[2], float(found[3]))
    except (TypeError, ValueError):
        expected = "a figure, one of <, <=, > and >=, and a number, such as reference_correlation<0.6"
        raise ValueError(f"Found the condition {text!r}. Expected {expected}.") from None


def audit_figures(result):
    """Every number of an audit under a flat name.

    Parameters
    ----------
    result : Bunch
        From `audit`.

    Returns
    -------
    figures : dict of str to float
        Of each reward and null ``<reward>/<measure>``; of the recommended reward the measure alone. With two models the
        figures of ``alignment``: those of the last step alone, others as ``<step>/<figure>``. Behind each interval, its
        ends as ``.low`` and ``.high``.
    """
    figures = {}
    for row in result.table:
        prefixes = ["", f"{row['reward']}/"] if row["reward"] == result.choice["use"] else [f"{row['reward']}/"]
        for prefix in prefixes:
            figures |= _flat({name: row[name] for name in MEASURES}, prefix.replace(" ", "_"))
    if found := result.alignment:
        for step in found["steps"]:
            figures |= _flat(step, f"{step['step']}/")
        figures |= _flat(found["steps"][-1], "")
        figures |= {unit: float(len(found[unit])) for unit in ("words", "tokens")}
    if pairs := result.uncertainty.get("pairs"):
        figures["undecided_share"] = pairs["share"]
    for row in result.compared or []:
        figures |= _flat(row, f"{row['reward']}/".replace(" ", "_"))
    figures |= _flat({name: result.learning_curve.get(name) for name in ("twice", "gain")}, "")
    figures |= _flat(result.novelty.get("deploy") or {}, "deploy/")
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def _flat(row, prefix):
    found = {}
    for name, value in row.items():
        if hasattr(value, "estimate"):
            found |= {f"{prefix}{name}": value.estimate}
            found |= {f"{prefix}{name}.{end}": getattr(value, end) for end in ("low", "high")}
        elif isinstance(value, (int, float)):
            found[f"{prefix}{name}"] = value
    return found


def check_conditions(conditions, figures):
    """Compare figures with limits.

    Parameters
    ----------
    conditions : list of Condition
    figures : dict of str to float
        From `audit_figures`.

    Returns
    -------
    outcomes : list of Outcome

    Raises
    ------
    ValueError
        If the audit has no such figure. The message lists those that it has, with their values.
    """
    unknown = [condition.figure for condition in conditions if condition.figure not in figures]
    if unknown:
        known = ", ".join(
            f"{name} {value:.4g}" for name, value in figures.items() if not re.search("[.](low|high)$", name)
        )
        raise ValueError(
            f"This audit has no figure {', '.join(unknown)}. Expected one of: {known}. The ends of an "
            "interval are NAME.low and NAME.high."
        )
    return [
        Outcome(condition, figures[condition.figure], _COMPARISONS[condition.comparison](value, condition.limit))
        for condition in conditions
        for value in [figures[condition.figure]]
    ]


def write_junit(path, outcomes):
    """Write outcomes as JUnit XML, a test case a condition.

    Parameters
    ----------
    path : path
    outcomes : list of Outcome
    """
    failures = sum(outcome.failed for outcome in outcomes)
    suite = ElementTree.Element("testsuite", name="fairl-sk audit", tests=str(len(outcomes)), failures=str(failures))
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname="fairl_sk.audit", name=f"not {outcome.condition}")
        if outcome.failed:
            ElementTree.SubElement(case, "failure", message=outcome.message())
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
