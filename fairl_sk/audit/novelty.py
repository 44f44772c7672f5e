"""Is the reward used on texts like those it was fitted on: distances of texts from the training texts. `run` reads it.

A text's distance is the cosine distance, in n-grams of characters, to its k-th nearest training output. Held-out
outputs calibrate it: a text is outside if at most 5 % of them are as far (a conformal p-value).
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import Bunch, check_random_state

from .. import metrics
from ..pairs import preference_sign, read_texts
from ..plot import COLORS
from .measures import shorten
from .sections import Finding, Picture, Section, Table, percent_text

N_NEIGHBORS = 5
N_COMPONENTS = 2_048  # of a sketch of the n-grams' weights
LEVEL = 0.05  # share of held-out outputs that is outside
CLEAR = 2 * LEVEL  # a larger share of other texts that is outside, surely, makes them another kind
MAX_TRAIN, MAX_ROWS = 5_000, 1_000  # distinct training outputs and other rows that are compared: a sample of more
MAX_CHARACTERS = 2_000  # of a text that are compared: its beginning
MIN_OUTPUTS = 40  # held out, for a calibration
N_FARTHEST = 8
SHOWN = 1.5  # times the standard deviation of held-out rewards
N_PARTS = 3  # of the held-out rows, by distance
N_DRAWS = 500


class TextDistance:
    """Distance of texts from training texts.

    Parameters
    ----------
    train : ndarray of shape (n_texts,)
        Training outputs.
    random_state : int or RandomState
        Of the sample of more than `MAX_TRAIN` distinct ones.

    Attributes
    ----------
    n_train, n_distinct : int
        Number of distinct training outputs that are compared, and of all.
    """

    def __init__(self, train, random_state=0):
        distinct = np.unique(np.array([_beginning(text) for text in train], dtype=object))
        self.n_distinct = len(distinct)
        if len(distinct) > MAX_TRAIN:
            distinct = check_random_state(random_state).choice(distinct, MAX_TRAIN, replace=False)
        self.n_train = len(distinct)
        # Hashed, so that n-grams without a training text count too: TfidfTransformer gives them the largest weight.
        self._counts = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), alternate_sign=False, norm=None, dtype=np.float32
        )
        self._weights = TfidfTransformer(sublinear_tf=True)
        vectors = self._weights.fit_transform(self._counts.transform(distinct))
        self._known = np.asarray((vectors > 0).sum(axis=0)).ravel() > 0
        # Count sketch: distances of short dense vectors take the same time for texts of all lengths.
        signs = check_random_state(random_state).choice(np.array([-1, 1], dtype=np.float32), vectors.shape[1])
        columns = np.arange(vectors.shape[1])
        self._sketch = sparse.csr_array((signs, (columns, columns % N_COMPONENTS)))
        neighbors = min(N_NEIGHBORS, len(distinct))
        self._neighbors = NearestNeighbors(n_neighbors=neighbors, metric="cosine", algorithm="brute")
        self._neighbors.fit((vectors @ self._sketch).toarray())

    def measure(self, texts):
        """Measure texts.

        Parameters
        ----------
        texts : ndarray of shape (n_texts,)

        Returns
        -------
        distance : ndarray of shape (n_texts,)
            From 0, an equal text, to 1, a text that shares nothing with a training text.
        unseen : ndarray of shape (n_texts,)
            Share of a text's weight on n-grams that no training text has.
        """
        vectors = self._weights.transform(self._counts.transform([_beginning(text) for text in texts]))
        distance = self._neighbors.kneighbors((vectors @ self._sketch).toarray())[0][:, -1]
        seen = np.asarray(vectors[:, self._known].power(2).sum(axis=1)).ravel()
        whole = np.asarray(vectors.power(2).sum(axis=1)).ravel()
        return distance, 1 - seen / np.where(whole > 0, whole, 1.0)


def _beginning(text):
    """What is read of a text. Half a surrogate pair (a cut emoji) has no bytes to hash, and becomes a question mark."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def read_deployed(deploy):
    """Read the texts or pairs on which a reward will be used.

    Parameters
    ----------
    deploy : Bunch, or sequence or ndarray of str
        From `fairl_sk.datasets.load_preferences` or `load_texts`; or texts (n_texts,) or (n_pairs, 2).

    Returns
    -------
    deployed : Bunch
        ``texts``, ``sign`` (n_pairs,) or None (1 where the first output of a pair is preferred, else -1), ``groups``
        and ``index`` (the user's row numbers).

    Raises
    ------
    ValueError
        If these are no texts.
    """
    expected = "Expected texts (n_texts,) or pairs of texts (n_pairs, 2), or what load_preferences or load_texts return"
    given = deploy.get("data") if isinstance(deploy, dict) else deploy
    texts = None
    if given is not None and not isinstance(given, str) and isinstance(given, (Sequence, np.ndarray)) and len(given):
        texts = read_texts(np.asarray(given, dtype=object))
    if texts is None:
        raise ValueError(f"Found deploy of type {type(deploy).__name__} without texts. {expected}.")
    known = deploy if isinstance(deploy, dict) else {}
    target, sign = known.get("target"), None
    if target is not None and texts.ndim == 2:
        sign = preference_sign(target, len(texts))
    rows = np.arange(len(texts))
    return Bunch(
        texts=texts, sign=sign, groups=np.asarray(known.get("groups", rows)), index=known.get("source_index", rows)
    )


def measure_novelty(train, held, interval, deployed=None, score=None, random_state=0):
    """Measure how far held-out texts and those of the deployment are from the training texts.

    Parameters
    ----------
    train : ndarray of shape (n_pairs, 2) or (n_outputs,)
        Training texts.
    held : Bunch
        Held-out rows: ``texts``, ``groups``, ``index``, ``sign`` (see `read_deployed`), ``rewards`` and ``std`` (their
        standard deviations, or None), of the shape of the texts.
    interval : callable
        `fairl_sk.metrics.bootstrap_interval` with the settings of the audit.
    deployed : Bunch, default=None
        From `read_deployed`.
    score : callable, default=None
        Texts (n,) -> rewards (n,) and their standard deviations (n,), or None for these; of ``deployed``.
    random_state : int, default=0
        Of samples and of the interval of the share that is outside.

    Returns
    -------
    dict
        ``left_out`` (None, or why there is nothing else), ``sampled`` (a phrase, or None), ``threshold`` (the distance
        beyond which a text is outside), ``held`` and ``deploy`` (None without ``deployed``). Each of both has
        ``outputs`` (number), ``distance`` (n_outputs,), ``unseen`` (see `TextDistance.measure`, mean), ``farthest`` (a
        list of dicts), ``spread`` (standard deviation of the rewards) and ``std`` (mean standard deviation of a reward,
        or None). ``held`` has ``parts``, the accuracy by distance; ``deploy`` has ``outside`` (the share, a
        `BootstrapInterval`), ``repeated`` (number of training texts) and ``accuracy`` (of pairs, or None).
    """
    if held.texts.size < MIN_OUTPUTS:
        return {"left_out": f"{held.texts.size} held-out outputs calibrate no distance (needed: {MIN_OUTPUTS})"}
    distance = TextDistance(train.ravel(), random_state)
    sampled = (
        [] if distance.n_train == distance.n_distinct else [_of(distance.n_train, distance.n_distinct, "training")]
    )
    parts = [_sampled(part, random_state) for part in (held, deployed) if part is not None]
    for part, kept, name in zip((held, deployed), parts, ("held-out", "deployment"), strict=False):
        if len(kept.texts) < len(part.texts):
            sampled.append(_of(kept.texts.size, part.texts.size, name))
    known = _measured(parts[0], distance)
    threshold = _threshold(known["distance"], np.ones(known["outputs"]))
    known["parts"] = _by_distance(known["distance"], parts[0], interval)
    found = {"left_out": None, "sampled": ", ".join(sampled) or None, "threshold": threshold, "held": known}
    if deployed is None:
        return {**found, "deploy": None}
    rewards, std = score(parts[1].texts.ravel())
    shape = parts[1].texts.shape
    parts[1] |= {"rewards": rewards.reshape(shape), "std": None if std is None else std.reshape(shape)}
    return {**found, "deploy": _deployment(_measured(parts[1], distance), known, parts, train, interval, random_state)}


def _of(some, all_of_them, name):
    return f"{some:,} of {all_of_them:,} {name} outputs"


def _sampled(part, random_state):
    """At most `MAX_ROWS` rows of a part, in their order."""
    if len(part.texts) <= MAX_ROWS:
        return Bunch(**part)
    rows = np.sort(check_random_state(random_state).choice(len(part.texts), MAX_ROWS, replace=False))
    return Bunch(**{name: None if values is None else np.asarray(values)[rows] for name, values in part.items()})


def _measured(part, distance):
    """The distances of a part's outputs, and its rewards in two figures."""
    distances, unseen = distance.measure(part.texts.ravel())
    order = np.argsort(-distances, kind="stable")
    first = np.sort(np.unique(part.texts.ravel()[order], return_index=True)[1])  # of each distinct text
    listed = order[first[:N_FARTHEST]]
    sides = part.texts.size // len(part.texts)
    return {
        "outputs": len(distances),
        "distance": distances,
        "unseen": float(unseen.mean()),
        "spread": float(np.std(part.rewards)),
        "std": None if part.std is None else float(np.mean(part.std)),
        "farthest": [
            {
                "index": int(part.index[row // sides]),
                "output": shorten(part.texts.ravel()[row]),
                "distance": float(distances[row]),
                "unseen": float(unseen[row]),
                "reward": float(part.rewards.ravel()[row]),
            }
            for row in listed
        ],
    }


def _threshold(distances, weights):
    """The least distance that at most `LEVEL` of the weight exceeds, by the conformal rule: one more counts as far."""
    order = np.argsort(distances, kind="stable")
    beyond = weights.sum() - np.cumsum(weights[order])
    fits = beyond + 1 <= LEVEL * (weights.sum() + 1)
    return float(distances[order][np.argmax(fits)])


def _by_distance(distances, part, interval):
    """Accuracy on the nearest, the middle and the farthest held-out rows, by the farther one of a pair's outputs."""
    of_row = distances.reshape(len(part.texts), -1).max(axis=1)
    edges = np.quantile(of_row, np.linspace(0, 1, N_PARTS + 1)[1:-1])
    place = np.searchsorted(edges, of_row, side="left")
    rows = []
    for number in range(N_PARTS):
        inside = place == number
        accuracy = None
        if len(np.unique(part.groups[inside])) > 1:
            accuracy = interval(_mean, _credit(part)[inside], groups=part.groups[inside])
        rows.append({"rows": int(inside.sum()), "distance": _mean_or_none(of_row[inside]), "accuracy": accuracy})
    return rows


def _credit(part):
    """1 for a row that the reward orders (an output whose sign is right), 1/2 for a tie, 0 for others."""
    margins = part.sign * (part.rewards if part.rewards.ndim == 1 else part.rewards[:, 0] - part.rewards[:, 1])
    return (margins > 0) + 0.5 * (margins == 0)


def _mean(values, sample_weight):
    return np.average(values, weights=sample_weight)


def _mean_or_none(values):
    return float(values.mean()) if len(values) else None


def _deployment(measured, known, parts, train, interval, random_state):
    """The part of the deployment, compared with the held-out one."""
    held, deployed = parts
    accuracy, known_texts = None, set(train.flat)
    if deployed.sign is not None and len(np.unique(deployed.groups)) > 1:
        accuracy = interval(_mean, _credit(deployed), groups=deployed.groups)
    return {
        **measured,
        "outside": _outside(known["distance"], held, measured["distance"], deployed, random_state),
        "repeated": sum(text in known_texts for text in deployed.texts.flat),
        "accuracy": accuracy,
    }


def _outside(of_held, held, of_deployed, deployed, random_state):
    """Share of the deployment's outputs that is outside. Each draw of groups, of both parts, has its own threshold."""
    random = check_random_state(random_state)
    sizes = len(of_held) // len(held.groups), len(of_deployed) // len(deployed.groups)
    codes = [
        np.unique(np.repeat(groups, size), return_inverse=True)[1]
        for groups, size in zip((held.groups, deployed.groups), sizes, strict=True)
    ]
    draws = []
    for _ in range(N_DRAWS):
        weights = [random.multinomial(n, np.full(n, 1 / n))[code] for code in codes for n in [code.max() + 1]]
        draws.append(np.average(of_deployed > _threshold(of_held, weights[0]), weights=weights[1]))
    share = float(np.mean(of_deployed > _threshold(of_held, np.ones(len(of_held)))))
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return metrics.BootstrapInterval(share, low, high, float(np.std(draws)), int(codes[1].max() + 1), N_DRAWS)


def novelty_section(result):
    """Does it hold for other texts: distances from the training texts."""
    found = result.novelty
    title = "Does it hold for other texts?"
    if found["left_out"] is not None:
        return Section(title, f"Not measured: {found['left_out']}.")
    held, deploy = found["held"], found["deploy"]
    parts = {"held-out": held} | ({} if deploy is None else {"deployment": deploy})
    rows_are = result.settings["rows_are"]
    words = _words_on_parts(held, rows_are) if deploy is None else _words_on_deployment(deploy, held)
    words.append(
        "The distance is the cosine distance, in n-grams of characters, to the fifth nearest training output. A text "
        f"is unlike the training texts if it is farther from them than {1 - LEVEL:.0%} of the held-out outputs "
        f"(distance above {found['threshold']:.2f}): {LEVEL:.0%} of these are, by definition."
    )
    if found["sampled"]:
        words.append(f"Measured on a random sample: {found['sampled']}.")
    tables = [
        Table(
            "Pair accuracy by distance" if rows_are == "pairs" else "Share of right signs by distance",
            [f"held-out {rows_are}", rows_are, "mean distance", "accuracy"],
            [
                [name, f"{row['rows']}", _number(row["distance"]), percent_text(row["accuracy"], 1)]
                for name, row in zip(("nearest third", "middle third", "farthest third"), held["parts"], strict=True)
            ],
        )
    ]
    for name, part in parts.items():
        rows = part["farthest"]
        columns = ["row", "distance", "never seen", "reward"]
        cells = [[f"{r['index']}", _number(r["distance"]), f"{r['unseen']:.0%}", _number(r["reward"])] for r in rows]
        tables.append(Table(f"The farthest {name} outputs", columns, cells))
        texts = [[f"{r['index']}", r["output"]] for r in rows if "output" in r]
        tables.append(Table(f"Texts of the farthest {name} outputs", ["row", "text"], texts, of_texts=True))
    return Section(title, " ".join(words), [_picture(found, parts)], tables)


def _words_on_parts(held, rows_are):
    near, far = held["parts"][0]["accuracy"], held["parts"][-1]["accuracy"]
    words = []
    if near is not None and far is not None:
        falls = "falls clearly" if far.high < near.low else "does not clearly fall"
        words.append(
            f"Accuracy {falls} with the distance from the training texts: it is {percent_text(near, 1)} on the nearest "
            f"third of the held-out {rows_are}, and {percent_text(far, 1)} on the farthest third."
        )
    words.append(
        "This report saw no other texts. To compare those on which you will use the reward: `fairl-sk audit PAIRS.csv "
        "--deploy TEXTS.txt` (in Python: `audit(data, deploy=texts)`)."
    )
    return words


def _words_on_deployment(deploy, held):
    outside = deploy["outside"]
    words = [
        f"{outside.estimate:.0%} of the {deploy['outputs']} outputs of the deployment are unlike the training texts "
        f"[{outside.low:.0%}, {outside.high:.0%}]; of texts of the same kind it would be {LEVEL:.0%}."
    ]
    if is_other_kind(deploy):
        words.append(
            f"They are another kind of text: {deploy['unseen']:.0%} of their n-grams (by weight) occur in no training "
            f"text (held out: {held['unseen']:.0%}). The figures of this audit do not hold for them: label some of "
            "them, and add these to the pairs."
        )
    else:
        words.append("Nothing shows that they are another kind of text.")
    if held["spread"] > 0:
        words.append(f"Their rewards spread {deploy['spread'] / held['spread']:.2f} times as much as held-out ones.")
    if deploy["std"] is not None and held["std"]:
        ratio = deploy["std"] / held["std"]
        silent = is_other_kind(deploy) and ratio < SHOWN
        text = "The reward's own standard deviations do not show it" if silent else "Standard deviations"
        words.append(f"{text}: those of their rewards are {ratio:.2f} times as large as held out.")
    if deploy["repeated"]:
        words.append(f"{deploy['repeated']} of them are training texts.")
    if deploy["accuracy"] is not None:
        words.append(f"The reward orders their pairs with accuracy {percent_text(deploy['accuracy'], 1)}.")
    return words


def novelty_findings(result):
    """A finding if the texts of the deployment are of another kind."""
    deploy = result.novelty.get("deploy")
    if deploy is None or not is_other_kind(deploy):
        return []
    outside = deploy["outside"]
    sentence = (
        f"{outside.estimate:.0%} of the deployment's texts are unlike the training texts (of the same kind it would be "
        f"{LEVEL:.0%}): the figures of this audit do not hold for them."
    )
    remedy = "Label some of the deployment's texts, and add them to the pairs."
    brief = f"{outside.estimate:.0%} of the deployment's texts are unlike the training texts"
    return [Finding(outside.estimate, sentence, remedy, brief)]


def is_other_kind(deploy):
    """Whether the texts of a deployment are surely of another kind than those of the audit."""
    return deploy["outside"].low > CLEAR


def _picture(found, parts):
    threshold = found["threshold"]

    def draw():
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
        everything = np.concatenate([part["distance"] for part in parts.values()])
        edges = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-6), 31)
        for color, line, (name, part) in zip(COLORS, ("-", "--"), parts.items(), strict=False):
            weights = np.full(len(part["distance"]), 100 / len(part["distance"]))
            heights, _ = np.histogram(part["distance"], edges, weights=weights)
            ax.stairs(heights, edges, label=f"{part['outputs']:,} {name} outputs", color=color, ls=line, lw=1.8)
        ax.axvline(threshold, color="0.4", lw=1, label="right of it: unlike the training texts")
        ax.set(xlabel="distance from the training texts", ylabel="% of outputs")
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        return figure

    shares = ", ".join(f"{np.mean(part['distance'] > threshold):.0%} of {name}" for name, part in parts.items())
    return Picture(
        "novelty", draw, f"Histogram of distances from the training texts. Unlike these are {shares} outputs."
    )


def _number(value):
    return "-" if value is None else f"{value:.2f}"
