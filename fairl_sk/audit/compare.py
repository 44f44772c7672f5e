"""Is it the reward one already has: other rewards on the held-out rows, beside the recovered one. `run` reads it."""

import inspect

import numpy as np
from scipy.stats import rankdata

from .. import metrics
from ..plot import COLORS
from ..warn import warn_user
from .measures import margins_of, measured, shortened_texts
from .properties import measure_properties
from .sections import Finding, Picture, Section, Table, interval_text, sample_words
from .shortcuts import followed, measure_shortcuts, property_table
from .unfinished import NOT_MEASURED

N_DISAGREEMENTS = 10
MAX_COMPARED = 5_000  # held-out rows that other rewards score, which may be large models: a sample of more
MIN_ROWS = 20  # with rewards, for figures
CHANCE = 0.5
FOLLOWS = 0.25  # a share of the margins that a property surely explains and that is worth words
ALIKE = 0.9  # a rank correlation of rewards that rank outputs nearly alike


def score_outputs(name, reward, texts, prompts=None):
    """Score outputs by a reward of any kind.

    Parameters
    ----------
    name : str
        For messages.
    reward : callable or estimator
        Texts (n,) -> rewards (n,); a reward function of TRL, with a parameter ``completions``; or a fitted estimator
        over texts, whose ``decision_function`` (``predict`` of a regressor) is read.
    texts : ndarray of shape (n_pairs, 2) or (n_outputs,)
    prompts : ndarray of shape (n_pairs,) or (n_outputs,), default=None
        For a reward function of TRL. None: "" for each.

    Returns
    -------
    rewards : ndarray of the shape of the texts
        NaN where the reward gave None.

    Raises
    ------
    ValueError
        If the reward fails, or gives another number of values.
    """
    flat = texts.ravel()
    prompts = np.full(len(texts), "", dtype=object) if prompts is None else prompts
    prompts = np.repeat(prompts, texts.size // len(texts))
    expected = "Expected a fitted reward that takes texts and gives one number for each."
    try:
        if not callable(reward):
            values = getattr(reward, "decision_function", getattr(reward, "predict", None))(flat)
        elif "completions" in inspect.signature(reward).parameters:
            values = reward(prompts=prompts.tolist(), completions=flat.tolist())
        else:
            values = reward(flat)
        values = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"The compared reward {name!r} failed on {len(flat)} texts: {error} {expected}") from error
    if values.shape != flat.shape:
        raise ValueError(f"The compared reward {name!r} gave shape {values.shape} for {len(flat)} texts. {expected}")
    return values.reshape(texts.shape)


def check_compared(compare, taken):
    """Refuse what is no dict from names to rewards, and names of the audit's own rewards.

    Parameters
    ----------
    compare : dict of str to callable or estimator, or None
    taken : container of str
        Names of the audit's rewards.

    Returns
    -------
    compare : dict
    """
    compare = {} if compare is None else compare
    if not isinstance(compare, dict):
        raise ValueError(f"Found compare of type {type(compare).__name__}. Expected a dict from a name to a reward.")
    for name, reward in compare.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"Found the name {name!r} in compare. Expected a text: it stands in tables.")
        if name in taken:
            raise ValueError(f"Found {name!r} in compare, which is a reward of the audit. Expected another name.")
        numbers = hasattr(reward, "predict") and not hasattr(reward, "classes_")
        if not (callable(reward) or hasattr(reward, "decision_function") or numbers):
            raise ValueError(
                f"Found compare={{{name!r}: {type(reward).__name__}}}. Expected a callable from texts to rewards, or a "
                "fitted estimator over texts with a decision_function; put another classifier into "
                "fairl_sk.rewards.EstimatorReward."
            )
    return compare


def compare_rewards(compared, recovered, held, interval, difference, properties=None, **draws):
    """Compare rewards with the recovered one on the held-out rows.

    Parameters
    ----------
    compared : dict of str to ndarray of shape (n_pairs, 2) or (n_outputs,)
        Rewards of the held-out outputs, by name. NaN where there is none.
    recovered : ndarray
        The same by the recovered reward.
    held : Bunch
        The held-out rows.
    interval, difference : callable
        `fairl_sk.metrics.bootstrap_interval` and `bootstrap_difference` with the settings of the audit.
    properties : dict of str to `Property`, default=None
        From `fairl_sk.audit.properties.known_properties`. None: those of the package.
    **draws
        ``n_resamples`` and ``random_state`` of `measure_shortcuts`.

    Returns
    -------
    rows : list of dict
        One a reward: ``reward``, ``problems`` (a list of sentences), ``rows`` (number with a reward) and ``of`` (how
        many rows). If there are enough, also the measures of the audit's table (intervals), ``recovered`` (that of the
        main measure on the same rows), ``difference`` (of the main measure, less that of the recovered reward),
        ``starc_recovered``, ``spearman_recovered`` and ``spearman_reference`` (intervals, or None), ``disagree``
        (number of pairs that both order differently), ``disagreements`` (a list of dicts), and ``properties`` (of
        pairs: what `measure_shortcuts` says of this reward).

    Warns
    -----
    UserWarning
        For each problem.
    """
    rows = []
    for name, rewards in compared.items():
        finite = np.isfinite(rewards).reshape(len(rewards), -1).all(axis=1)
        row = {"reward": name, "rows": int(finite.sum()), "of": len(finite), "problems": _missing(rewards, finite)}
        enough = finite.sum() >= MIN_ROWS and len(np.unique(held.groups[finite])) > 1
        if enough:
            kept = some_rows(held, finite)
            row |= _compared(rewards[finite], recovered[finite], kept, interval, difference)
            row["problems"] += _suspicious(rewards[finite], row)
            row["properties"] = _properties(rewards[finite], kept, properties, draws)
        for problem in row["problems"]:
            warn_user(f"The compared reward {name!r} {problem}")
        rows.append(row)
    return rows


def _properties(rewards, held, properties, draws):
    """How far a reward of pairs goes with each property of their texts."""
    if rewards.ndim == 1:
        return []
    values = measure_properties(held.texts, held.prompts, properties)
    return measure_shortcuts(values, held.sign, held.groups, rewards[:, 0] - rewards[:, 1], **draws)


def _missing(rewards, finite):
    """What is wrong with missing values, as sentences without their subject."""
    n_missing, n_left = int((~np.isfinite(rewards)).sum()), int(finite.sum())
    if not n_missing:
        return [] if n_left >= MIN_ROWS else [f"is not measured: {n_left} held-out rows are too few."]
    found = f"gives no finite number for {n_missing} of {rewards.size} held-out outputs"
    if n_left < MIN_ROWS:
        return [f"{found}: it is not measured."]
    return [f"{found}: its figures are of the other {n_left} rows."]


def _suspicious(rewards, row):
    """What is wrong with the values themselves."""
    if np.ptp(rewards) == 0:
        return [f"gives {rewards.flat[0]:.6g} for every held-out output: it prefers nothing."]
    main = row["pair_accuracy"] or row["output_auc"]
    if main.high < CHANCE:
        what = "orders {:.1%} of the held-out pairs" if row["pair_accuracy"] else "has an AUC of {:.3f}"
        return [f"{what.format(main.estimate)}, surely less than a coin: its sign may be reversed."]
    return []


def some_rows(held, kept):
    """Some of the held-out rows."""
    fields = ("texts", "prompts", "y", "sign", "groups", "index", "labels", "reference_reward")
    return type(held)(**{name: None if held[name] is None else held[name][kept] for name in fields})


def _compared(rewards, recovered, held, interval, difference):
    """The figures of one reward."""
    paired = rewards.ndim == 2
    main = metrics.pair_accuracy if paired else metrics.output_auc_score
    sides = [values[:, 0] - values[:, 1] if paired else values for values in (rewards, recovered)]
    found = measured(rewards, held, lambda metric, *arrays, **settings: interval(
        metric, *arrays, groups=held.groups, **settings
    ))  # fmt: skip
    found["recovered"] = interval(main, held.y, sides[1], groups=held.groups)
    found["difference"] = difference(main, (held.y, sides[0]), (held.y, sides[1]), groups=held.groups)
    groups = np.repeat(held.groups, held.texts.size // len(held.texts))
    found["starc_recovered"] = None
    if np.ptp(rewards) > 0 and np.ptp(recovered) > 0:
        found["starc_recovered"] = interval(metrics.starc_distance, rewards, recovered, groups=held.groups)
    for name, other in (("recovered", recovered), ("reference", held.reference_reward)):
        known = other is not None and np.ptp(rewards) > 0 and np.ptp(other) > 0
        ranks = (rankdata(values.ravel()) for values in (rewards, other)) if known else ()
        found[f"spearman_{name}"] = interval(_correlation, *ranks, groups=groups) if known else None
    return found | _disagreements(rewards, recovered, held)


def _correlation(first, second, sample_weight):
    """Pearson's correlation of ranks, which is Spearman's."""
    covariance = np.cov(first, second, aweights=sample_weight, ddof=0)
    scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return covariance[0, 1] / scale if scale > 0 else np.nan


def _disagreements(rewards, recovered, held):
    """The rows on which both rewards differ in sign, those first whose smaller margin is the largest."""
    margins = np.stack([margins_of(values, held.sign) for values in (rewards, recovered)])
    if rewards.ndim == 1:
        margins = np.stack([held.sign * (values - np.median(values)) for values in (rewards, recovered)])
    deviations = margins.std(axis=1, keepdims=True)
    scaled = margins / np.where(deviations > 0, deviations, 1.0)
    differ = np.sign(scaled[0]) * np.sign(scaled[1]) < 0
    order = np.argsort(-np.abs(scaled).min(axis=0) * differ, kind="stable")
    listed = []
    for row in order[: min(N_DISAGREEMENTS, differ.sum())]:
        listed.append(
            {
                "index": int(held.index[row]),
                "compared": float(scaled[0, row]),
                "recovered": float(scaled[1, row]),
                **shortened_texts(held.texts[row], held.sign[row]),
            }
        )
    return {"disagree": int(differ.sum()), "disagreements": listed}


def compare_section(result):
    """Is it the reward that one already has; None without compared rewards."""
    rows, title = result.compared, "Is it the reward I already have?"
    if not rows:
        return Section(title, NOT_MEASURED) if rows is None and "compared" in result.settings else None
    problems = [f"{row['reward']} {problem}" for row in rows for problem in row["problems"]]
    measured_rows = [row for row in rows if "difference" in row]
    words = [" ".join(problems)] if problems else []
    words += [" ".join(_sentences(row)) for row in measured_rows if row["spearman_recovered"] is not None]
    words += sample_words(MAX_COMPARED, result.settings["test_rows"])
    columns = {
        "pair accuracy": "pair_accuracy",
        "AUC of outputs": "output_auc",
        "AUC of labels": "label_auc",
        "less the recovered reward": "difference",
        "STARC to the recovered": "starc_recovered",
        "rank correlation with it": "spearman_recovered",
        "STARC to the reference": "starc",
        "rank correlation with the reference": "spearman_reference",
    }
    columns = {label: name for label, name in columns.items() if any(row.get(name) is not None for row in rows)}
    cells = [
        [row["reward"], f"{row['rows']}", *(interval_text(row.get(name)) for name in columns.values())] for row in rows
    ]
    tables = [Table("Compared rewards on the held-out rows, with 95% intervals", ["reward", "rows", *columns], cells)]
    for row in measured_rows:
        tables += _disagreement_tables(row)
        tables += [property_table(row["properties"], row["reward"])] if row["properties"] else []
    pictures = [_picture(measured_rows)] if measured_rows else []
    return Section(title, "\n".join(words), pictures, tables)


def compare_findings(result):
    """A finding for each compared reward that is constant, reversed, or has missing values."""
    findings = []
    for row in result.compared or []:
        for problem in row["problems"]:
            doubt = 1 - row["rows"] / row["of"] if row["rows"] < row["of"] else 1.0
            remedy = f"Mend {row['reward']}, or leave it out."
            what = f"compared reward {row['reward']} {problem}"
            findings.append(Finding(doubt, f"The {what}", remedy, f"the {what.rstrip('.')}"))
    return findings


def _sentences(row):
    """What the figures say of one reward, and which properties it goes with."""
    told = [found for found in row["properties"] if found["named"] or found["r2"].low > FOLLOWS]
    return [_sentence(row), *(followed(found, row["reward"]) for found in told)]


def _sentence(row):
    main, less = row["pair_accuracy"] or row["output_auc"], row["difference"]
    found = (
        f"orders {main.estimate:.1%} of the held-out pairs"
        if row["pair_accuracy"]
        else f"has an AUC of {interval_text(main)}"
    )
    than = "no clear difference from the recovered reward"
    if less.low > 0 or less.high < 0:
        than = f"clearly {'more' if less.low > 0 else 'less'} than the recovered reward"
    of_recovered, gap = f"{row['recovered'].estimate:.3f}", interval_text(less)
    if row["pair_accuracy"]:
        of_recovered = f"{row['recovered'].estimate:.1%}"
        gap = f"{100 * less.estimate:+.1f} points [{100 * less.low:+.1f}, {100 * less.high:+.1f}]"
    text = f"{row['reward']} {found}, {than} ({of_recovered}; difference {gap})."
    alike = row["spearman_recovered"]
    ranks = "ranks outputs nearly as it does" if alike.low > ALIKE else "ranks outputs otherwise"
    return f"{text} It {ranks} (rank correlation {interval_text(alike)})."


def _disagreement_tables(row):
    """Where both disagree most: row numbers, and texts."""
    listed = row["disagreements"]
    if not listed:
        return []
    where = (
        f"{row['disagree']} of {row['rows']} rows have another sign by {row['reward']}; those of the clearest margins"
    )
    columns = ["row", "margin, compared", "margin, recovered"]
    cells = [[f"{r['index']}", f"{r['compared']:+.2f}", f"{r['recovered']:+.2f}"] for r in listed]
    sides = [side for side in ("preferred", "other", "output") if side in listed[0]]
    texts = [[f"{r['index']}", *(r[side] for side in sides)] for r in listed]
    numbers = Table(f"{where}, in standard deviations", columns, cells)
    return (
        [numbers]
        if not sides
        else [
            numbers,
            Table(
                f"Texts on which {row['reward']} and the recovered reward disagree",
                ["row", *sides],
                texts,
                of_texts=True,
            ),
        ]
    )


def _picture(rows):
    """Scores of the compared rewards beside those of the recovered one on the same rows."""
    score = "pair accuracy" if rows[0]["pair_accuracy"] else "AUC of outputs"

    def draw():
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(7, 1.2 + 0.5 * len(rows)), layout="constrained")
        for side, (label, shift) in enumerate((("compared", -0.12), ("recovered", 0.12))):
            found = [row["recovered"] if side else row["pair_accuracy"] or row["output_auc"] for row in rows]
            middle = np.array([each.estimate for each in found])
            error = np.array([[each.estimate - each.low, each.high - each.estimate] for each in found]).T
            place = np.arange(len(rows)) + shift
            ax.errorbar(middle, place, xerr=error, ls="", marker="os"[side], color=COLORS[side], capsize=2, label=label)
        ax.axvline(CHANCE, color="0.4", lw=1)
        ax.set(xlabel=score, yticks=range(len(rows)), yticklabels=[row["reward"] for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return figure

    best = ", ".join(f"{row['reward']} {(row['pair_accuracy'] or row['output_auc']).estimate:.3f}" for row in rows)
    alt = f"Held-out {score} of the compared rewards ({best}) and of the recovered reward on the same rows."
    return Picture("compared", draw, alt)
