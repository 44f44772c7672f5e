"""The parts of an audit after the scores: an interrupt leaves out those that are not finished. `run` reads it."""

import time

from ..warn import warn_user
from .sections import Finding

WHY = "the audit was interrupted"
NOT_MEASURED = f"Not measured: {WHY}."
PARTS = {  # in their order; what stands for a part that is not finished
    "uncertainty": {"left_out": WHY},
    "label_errors": {"left_out": NOT_MEASURED, "review": []},
    "failures": [],
    "shortcuts": {"left_out": NOT_MEASURED, "properties": [], "edits": []},
    "subgroups": {"left_out": NOT_MEASURED, "tested": []},
    "compared": None,
    "novelty": {"left_out": WHY},
    "learning_curve": {"left_out": WHY},
}


def measure_parts(parts):
    """Measure the parts one after the other, until the last one or an interrupt.

    Parameters
    ----------
    parts : iterable of (str, value)
        Measures each part of `PARTS` when it is asked for it.

    Returns
    -------
    found : dict
        Each part by name; of a part that is not finished, what stands for it.
    settings : dict
        ``seconds of parts`` (dict, of those that are finished) and ``interrupted`` (list of those that are not).

    Warns
    -----
    UserWarning
        After an interrupt: which parts are not finished.
    """
    found, seconds, started = {}, {}, time.perf_counter()
    try:
        for name, value in parts:
            found[name], seconds[name] = value, round(time.perf_counter() - started, 2)
            started = time.perf_counter()
    except KeyboardInterrupt:
        pass
    missing = [name for name in PARTS if name not in found]
    if missing:
        warn_user(f"Interrupted. The scores are finished; not measured: {_listed(missing)}.")
    return {**PARTS, **found}, {"seconds of parts": seconds, "interrupted": missing}


def unfinished_findings(result):
    """A finding if an interrupt left out parts."""
    missing = result.settings["interrupted"]
    if not missing:
        return []
    sentence = f"This audit was interrupted. Not measured: {_listed(missing)}."
    return [Finding(1.0, sentence, "Run it to its end.", "this audit was interrupted")]


def _listed(names):
    return ", ".join(name.replace("_", " ") for name in names)
