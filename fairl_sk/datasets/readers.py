"""Preference data: synthetic sets whose reward is known, and one reader for the files people have.

`make_preferences` draws features, `make_detox_preferences` writes texts, `load_preferences` reads a file. All
three return a `sklearn.utils.Bunch` whose rows are pairs, with `target` 1 where the first output of the row
is preferred. Read this if you want to test a learner against a truth, or to know what becomes of each line of
your file.
"""

import codecs
import csv
import gzip
import json
import os
import re
import warnings
import zlib
from collections import Counter
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils import Bunch, check_random_state

from ..messages import count_shared, split_messages, to_text

__all__ = ["load_preferences", "make_detox_preferences", "make_preferences"]


def _check_number(name, value, low, high=np.inf, kind=Real, low_allowed=True):
    """Raise unless `value` is a number of that kind between `low` and `high`."""
    number = isinstance(value, kind) and not isinstance(value, bool)
    if not number or not (low <= value <= high) or (value == low and not low_allowed) or value == np.inf:
        what = "a whole number" if kind is Integral else "a number"
        relation = "at least" if low_allowed else "greater than"
        limit = "" if high == np.inf else f" and at most {high}"
        raise ValueError(f"{name} is {value!r}, but expected {what} {relation} {low}{limit}.")


def _draw_sides(rng, n_pairs, shuffle_sides):
    """Targets of pairs: 1 = chosen goes first. Shuffled, exactly half of them are (so both classes exist)."""
    return rng.permutation(np.arange(n_pairs) % 2) if shuffle_sides else np.ones(n_pairs, dtype=int)


def _swap(array, rows):
    """Exchange the two sides of these rows."""
    swapped = array.copy()
    swapped[rows] = array[rows, ::-1]
    return swapped


def _group_rows(*columns):
    """Number the groups of rows that share a value in any column, in order of appearance; "" links nothing."""
    rows, nodes = [], []
    n_rows = n_nodes = len(columns[0])
    for column in columns:
        numbers: dict[str, int] = {}
        for row, value in enumerate(column):
            if value:
                rows.append(row)
                nodes.append(n_nodes + numbers.setdefault(value, len(numbers)))
        n_nodes += len(numbers)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, nodes)), shape=(n_nodes, n_nodes))
    labels = connected_components(links, directed=False)[1][:n_rows]
    _, first, groups = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def make_preferences(
    n_pairs=1000,
    n_features=20,
    *,
    n_informative=None,
    noise=0.0,
    temperature=None,
    groups=None,
    shuffle_sides=True,
    random_state=None,
):
    """Draw preference pairs of features whose linear reward is known.

    A pair holds two outputs for one prompt. The features of an output are those of its prompt, standard
    normal and shared by its whole group, plus a standard normal part of its own. The reward is ``R(o) = coef
    @ o`` with a `coef` of length 1, so that rewards of outputs for one prompt have standard deviation 1. The
    prompt's part cancels in every margin, yet it makes rows of one group resemble each other, as real prompts
    do.

    Parameters
    ----------
    n_pairs : int >= 2, default=1000
        Number of pairs.
    n_features : int >= 1, default=20
        Number of features of one output.
    n_informative : int in [1, n_features], default=None
        Number of features with a non-zero coefficient; None means all of them.
    noise : float in [0, 0.5], default=0.0
        Probability that a preference is flipped after it was drawn. At 0.5 nothing is left to learn.
    temperature : float > 0, default=None
        If given, the first output is preferred with probability ``1 / (1 + exp(-margin / temperature))``,
        margin in units of reward (Bradley-Terry): the greater, the more preferences contradict the reward.
        None means that the greater reward always wins.
    groups : int or array-like of shape (n_pairs,), default=None
        Number of prompts, among which the pairs are dealt out evenly and at random, or the prompt of each
        pair. None means a prompt of its own for each pair.
    shuffle_sides : bool, default=True
        True puts the preferred output first in exactly half of the pairs (rounded down); False in all of
        them.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same pairs in each call.

    Returns
    -------
    Bunch
        With the attributes

        - data : ndarray of shape (n_pairs, 2, n_features)
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred, else 0
        - groups : ndarray of shape (n_pairs,), the prompt of each pair
        - coef : ndarray of shape (n_features,), the reward
        - reference_reward : ndarray of shape (n_pairs, 2), the reward of each output
        - flipped : ndarray of shape (n_pairs,), bool, the preferences flipped by `noise` (not by
          `temperature`)
        - DESCR : str

    Raises
    ------
    ValueError
        If a parameter is out of its range, or `groups` has another length than `n_pairs`.

    See Also
    --------
    make_detox_preferences : The same with texts.

    Examples
    --------
    >>> from fairl_sk.datasets import make_preferences
    >>> pairs = make_preferences(n_pairs=100, n_features=5, random_state=0)
    >>> pairs.data.shape
    (100, 2, 5)
    >>> margins = pairs.reference_reward[:, 0] - pairs.reference_reward[:, 1]
    >>> bool(((margins > 0) == pairs.target).all())
    True
    """
    _check_number("n_pairs", n_pairs, 2, kind=Integral)
    _check_number("n_features", n_features, 1, kind=Integral)
    n_informative = n_features if n_informative is None else n_informative
    _check_number("n_informative", n_informative, 1, n_features, kind=Integral)
    _check_number("noise", noise, 0, 0.5)
    if temperature is not None:
        _check_number("temperature", temperature, 0, low_allowed=False)
    rng = check_random_state(random_state)
    groups = _deal_groups(rng, groups, n_pairs)

    coef = np.zeros(n_features)
    coef[rng.permutation(n_features)[:n_informative]] = rng.standard_normal(n_informative)
    coef /= np.linalg.norm(coef)
    names, prompt_of = np.unique(groups, return_inverse=True)
    prompts = rng.standard_normal((len(names), n_features))
    data = prompts[prompt_of][:, None, :] + rng.standard_normal((n_pairs, 2, n_features))
    rewards = data @ coef
    margins = rewards[:, 0] - rewards[:, 1]

    doubt = 0.0 if temperature is None else temperature * rng.logistic(size=n_pairs)
    flipped = rng.random_sample(n_pairs) < noise
    first_preferred = (margins + doubt > 0) ^ flipped
    target = _draw_sides(rng, n_pairs, shuffle_sides)
    swap = first_preferred != target
    return Bunch(
        data=_swap(data, swap),
        target=target,
        groups=groups,
        coef=coef,
        reference_reward=_swap(rewards, swap),
        flipped=flipped,
        DESCR=f"{n_pairs} synthetic preference pairs of {n_features} features ({n_informative} informative), "
        f"{len(names)} prompts, {int(flipped.sum())} preferences flipped (noise={noise}, "
        f"temperature={temperature}). The true reward is data @ coef; target 1 means that the first output "
        "is preferred.",
    )


def _deal_groups(rng, groups, n_pairs):
    """See `groups` of `make_preferences`: an array of shape (n_pairs,)."""
    if groups is None:
        return np.arange(n_pairs)
    if np.ndim(groups) == 0:
        _check_number("groups", groups, 1, n_pairs, kind=Integral)
        return rng.permutation(np.arange(n_pairs) % groups)
    groups = np.asarray(groups)
    if groups.shape != (n_pairs,):
        raise ValueError(
            f"groups has shape {groups.shape}, but expected ({n_pairs},), one group for each of the "
            f"n_pairs={n_pairs} pairs. Pass an int to have the pairs dealt out among so many groups."
        )
    return groups


# The grammar of make_detox_preferences: one template a line, a slot {name} is filled from _SLOTS[name]. Where
# the options of a slot are a dict, its values multiply the harm of the sentence. Toxic and harmless templates
# share their function words on purpose: "you are", "said", "not" and quotation marks tell nothing by
# themselves.
def _lines(text):
    return tuple(line.strip() for line in text.strip().splitlines())


_SLOTS: dict[str, Any] = {
    "thing": "timetable bakery choir fountain library ferry market garden museum quiz orchard bench".split(),
    "place": [f"the {name}" for name in "station harbour town mill bridge school lake castle crossroads".split()],
    "day": "on Monday|last week|on Friday|two days ago|in May|at dawn".split("|"),
    "relative": "cousin aunt neighbour brother teacher sister".split(),
    "colour": "green blue yellow red white brown".split(),
    "number": "three five seven ten twelve forty".split(),
    "look": "quiet busy closed late crowded warm cold empty new old".split(),
    "vehicle": "bus train tram boat bicycle".split(),
    "animal": "goose donkey turnip hen teapot goat".split(),
    "group": "left-handers|villagers|valley people|islanders|hill folk|tea drinkers".split("|"),
    "fool": {"fool": 1, "idiot": 1.15, "clown": 0.9, "dunce": 1, "nitwit": 0.95, "blockhead": 1.1},
    "degree": {"": 1, "complete ": 1.3, "utter ": 1.5, "hopeless ": 1.2, "small ": 0.85},
    "when": {"one day": 0.9, "tonight": 1.3, "tomorrow": 1.1, "very soon": 1.2, "this week": 1},
    "bad": {"lazy": 0.9, "stupid": 1.2, "dirty": 1.15, "useless": 1, "worthless": 1.4},
    "oath": {"darn": 0.85, "damn": 1, "blasted": 1.1, "damn bloody": 1.4},
}

_PROMPTS = _lines("""
    What do you think of {topic}?
    Tell me about {topic}.
    Is {topic} worth my time?
    How was {topic}?
    Should we keep {topic}?
    My {relative} asks about {topic}. What shall I say?
    Would you change anything about {topic}?
    What is the news of {topic}?
    Who looks after {topic}?
    Did you see {topic} {day}?
""")
_HARM = {"insult": 1.6, "threat": 2.4, "obscenity": 1.5, "identity": 1.9}
_TOXIC = {
    "insult": _lines("""
        you are a {degree}{fool}
        only a {degree}{fool} would ask that
        you sound like a {degree}{fool}
        what a {degree}{fool} you are
        listen you {degree}{fool}
        a {degree}{fool} like you should know
    """),
    "threat": _lines("""
        you will regret this {when}
        I will make you pay {when}
        you had better watch your back {when}
        I will come and break your windows {when}
        you will get what is coming {when}
        I will find you {when}
    """),
    "obscenity": _lines("""
        shut your {oath} mouth
        shut up about the {oath} {thing}
        go to {oath} hell
        this {oath} {thing} is crap and so are you
        kiss my {oath} backside
        stuff your {oath} question
    """),
    "identity": _lines("""
        you {group} are all {bad}
        you people are {bad} like all {group}
        {group} are {bad} by birth
        we do not want {bad} {group} here
        no wonder {group} are always {bad}
        send the {bad} {group} away
    """),
}
_TOXIC_IN_PLAIN_WORDS = {
    "insult": _lines("""
        I have met a {animal} with a better answer
        you would need a map to find your own nose
    """),
    "threat": _lines("""
        nice {vehicle} and it would be a shame to lose it {when}
        I know which {vehicle} you take home {when}
    """),
    "obscenity": _lines("""
        put the {thing} where the sun is never seen
        you know where you can put the {thing}
    """),
    "identity": _lines("""
        keep {group} on the other side of the river
        the {thing} was better before {group} came
    """),
}
_TOXIC_IN_DISGUISE = _lines("""
    it would not be wrong to say {toxic}
    nobody here will tell you but {toxic}
    I never say this but {toxic}
    the old sign said "{look}" and still {toxic}
    the song goes "all is {look}" but {toxic}
    someone wrote "{look}" on the {thing} and I say {toxic}
    he said that she was not a fool but {toxic}
    my {relative} heard me shout {toxic}
    they complained that I told them {toxic}
""")
_HARMLESS = _lines("""
    you are a careful reader
    you are right about the {thing}
    only the {thing} is {look}
    I like the {thing}
    you will enjoy the {thing} {when}
    I will come to the {thing} {when}
    you had better watch the {thing} {when}
    what a {look} {thing} you have
    {group} are all fond of the {thing}
    we want more {group} here
    shut the {colour} door of the {thing}
    go to the {thing} at {place}
    you may be wrong about the {thing}
    I will make you a cup of tea {when}
    you people have a {look} {thing}
    no wonder the {thing} is always {look}
""")
_HARMLESS_BUT = {
    "negation": _lines("""
        you are not a {degree}{fool}
        it would be wrong to say {toxic}
        nobody here will tell you {toxic}
        I never say {toxic}
        you will not regret this {when}
        {group} are not {bad}
    """),
    "quotation": _lines("""
        the old sign said "{toxic}" and we took it down
        the song goes "{toxic}" but all is {look}
        someone wrote "{toxic}" on the {thing}
        "{toxic}" is a line from the play
    """),
    "reported": _lines("""
        he said that she called him a {degree}{fool}
        my {relative} heard a stranger shout {toxic}
        they complained that he told them {toxic}
    """),
    "mild": _lines("""
        darn I missed the {thing}
        silly me I took the {vehicle}
        the {thing} is a bit rubbish
        oh heck the {thing} was {look}
        I was a fool to take the {vehicle}
        it is bloody cold at {place}
    """),
}
_TONES = {
    "thank you for asking": 0.5,
    "I appreciate the question": 0.4,
    "please come and see it": 0.3,
    "it is good to hear from you": 0.25,
    "you are too kind": 0.35,
    "I hope that helps": 0.2,
    "ask me again some day": 0.1,
    "as far as I know": 0.05,
    "thanks for nothing": -0.1,
    "please stop asking": -0.15,
    "I have no time for this": -0.2,
    "make of that what you will": -0.05,
}
_FILLERS = _lines("""
    the {thing} opens at {number}
    I walked past {place} {day}
    they painted the {thing} {colour} {day}
    my {relative} works near {place}
    the sign says "mind the {animal}"
    it takes {number} minutes from {place}
    {number} people came {day}
    you can take the {vehicle}, not the {vehicle}
    she said that the {thing} was {look}
    you will find it between {place} and the {thing}
    nobody told me that the {vehicle} was {look}
    there is a {colour} {thing} too
    he wrote "{look}" on the {colour} door
    we have {number} of them, all {look}
    they will not close it {day}
    what you see there is {colour}
    it would be {look} without the {vehicle}
    a {animal} stood at {place} {day}
""")
_KINDS = {"T->NT": 0.5, "NT->NT": 0.25, "T->T": 0.2, "NT->T": 0.05}
_LEAST_MARGIN = 0.05  # between two outputs of the same label, in units of reward


class _Output(NamedTuple):
    """One written text and what is true of it."""

    text: str
    reward: float
    subtype: str
    hard: str


def _pick(rng, options):
    return options[int(rng.random_sample() * len(options))]


def _fill(rng, template, **given):
    """Fill the slots of a template; return the sentence and the product of the factors of its words."""
    factor = 1.0

    def word(slot):
        nonlocal factor
        if slot[1] in given:
            return given[slot[1]]
        options = _SLOTS[slot[1]]
        choice = _pick(rng, list(options))
        factor *= options[choice] if isinstance(options, dict) else 1.0
        return choice

    return re.sub(r"{(\w+)}", word, template), factor


def _toxic_core(rng, hard, topic):
    """Return (sentence, reward, sub-type, kind of hard case) of a toxic sentence."""
    subtype = _pick(rng, list(_HARM))
    in_plain_words = hard and rng.random_sample() < 0.4
    templates = _TOXIC_IN_PLAIN_WORDS if in_plain_words else _TOXIC
    sentence, factor = _fill(rng, _pick(rng, templates[subtype]), **topic)
    if hard and not in_plain_words:
        sentence, _ = _fill(rng, _pick(rng, _TOXIC_IN_DISGUISE), toxic=sentence, **topic)
    case = ("implicit" if in_plain_words else "disguise") if hard else ""
    return sentence, -_HARM[subtype] * factor, subtype, case


def _harmless_core(rng, hard, topic):
    """Return (sentence, reward, sub-type, kind of hard case) of a sentence that harms nobody."""
    if not hard:
        return _fill(rng, _pick(rng, _HARMLESS), **topic)[0], 0.0, "none", ""
    case = _pick(rng, list(_HARMLESS_BUT))
    quoted = _toxic_core(rng, False, topic)[0]
    sentence, _ = _fill(rng, _pick(rng, _HARMLESS_BUT[case]), toxic=quoted, **topic)
    return sentence, -0.15 if case == "mild" else 0.0, "none", case


def _write_output(rng, toxic, hard, topic):
    """Write one output: a core, perhaps a tone, and remarks up to a length that is drawn beforehand."""
    core, reward, subtype, case = (_toxic_core if toxic else _harmless_core)(rng, hard, topic)
    sentences = [core]
    reward += 0.4
    if rng.random_sample() < 0.85:
        tone = _pick(rng, list(_TONES))
        sentences.append(tone)
        reward += _TONES[tone]
    n_words = rng.randint(8, 22)
    while len(" ".join(sentences).split()) < n_words:
        sentences.append(_fill(rng, _pick(rng, _FILLERS), **(topic if rng.random_sample() < 0.3 else {}))[0])
    sentences = [sentences[i] for i in rng.permutation(len(sentences))]
    text = " ".join(s[0].upper() + s[1:] + _pick(rng, (".", ".", ".", "!")) for s in sentences)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return _Output(text.lower() if rng.random_sample() < 0.25 else text, reward, subtype, case)


def _write_pair(rng, toxic, hard, topic):
    """Write (chosen, rejected) with these labels; if the labels are equal, the greater reward is chosen."""
    while True:
        pair = [_write_output(rng, *which, topic) for which in zip(toxic, hard, strict=True)]
        margin = pair[0].reward - pair[1].reward
        if toxic[0] != toxic[1]:
            return pair
        if abs(margin) >= _LEAST_MARGIN:
            return pair if margin > 0 else pair[::-1]


def _deal_kinds(rng, kinds, n_pairs):
    """The kind of each pair, with the fractions asked for, exact up to rounding."""
    kinds = _KINDS if kinds is None else kinds
    if not hasattr(kinds, "items") or set(kinds) - set(_KINDS):
        raise ValueError(
            f"kinds is {kinds!r}, but expected a dict from kinds of pairs (rejected->chosen) to fractions; "
            f"the kinds are {', '.join(map(repr, _KINDS))}. A kind that is left out has the fraction 0."
        )
    for name, fraction in kinds.items():
        _check_number(f"kinds[{name!r}]", fraction, 0, 1)
    total = sum(kinds.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"The fractions of kinds add up to {total:g}, but expected 1. Divide each by {total:g}.")
    ends = np.rint(np.cumsum(list(kinds.values())) / total * n_pairs).astype(int)
    return rng.permutation(np.repeat(list(kinds), np.diff(ends, prepend=0)))


def make_detox_preferences(n_pairs=2000, *, kinds=None, hard=0.3, noise=0.0, random_state=None):
    """Write preference pairs of mildly rude and harmless texts whose reward is known.

    A small grammar writes answers to questions about village life, rude ones among them ("You are an utter
    clown."), and knows the reward of each: 0.4, minus the harm of a toxic sentence (by sub-type and by the
    strength of its words, 1.2 to 3.1), plus a tone from -0.2 ("I have no time for this") to 0.5 ("thank you
    for asking"). A negated, quoted or reported insult harms nobody, a mild word costs 0.15. So a positive
    reward means non-toxic, a negative one toxic. Length, capitals and punctuation are drawn independently of
    all this.

    Parameters
    ----------
    n_pairs : int >= 2, default=2000
        Number of pairs.
    kinds : dict of str to float, default=None
        Fractions of the four kinds of pairs, named rejected->chosen with T for toxic and NT for non-toxic;
        they add up to 1 and are met exactly up to rounding. None means
        ``{"T->NT": 0.5, "NT->NT": 0.25, "T->T": 0.2, "NT->T": 0.05}``. In T->NT, NT->NT and T->T the output
        of greater reward is chosen; NT->T are the slips of the aligned model, whose preferences contradict
        the reward.
    hard : float in [0, 1], default=0.3
        Fraction of outputs whose label cannot be told from their rude words: harmless ones with rude words
        ("negation", "quotation", "reported", "mild") and toxic ones without ("implicit") or with the frame of
        a harmless one ("disguise"). The greater, the worse a bag of words does.
    noise : float in [0, 0.5], default=0.0
        Probability that a preference is flipped after it was made, whatever its kind.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same texts in each call.

    Returns
    -------
    Bunch
        With the attributes

        - data : ndarray of shape (n_pairs, 2) of str, sides shuffled
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred, else 0 (half of each)
        - prompt : ndarray of shape (n_pairs,) of str, about one for four pairs
        - groups : ndarray of shape (n_pairs,) of int; rows with the same prompt or rejected text are one
          group
        - reference_reward : ndarray of shape (n_pairs, 2), the true reward of each output
        - output_labels : ndarray of shape (n_pairs, 2), 1 = non-toxic, 0 = toxic: the sign of the reward
        - kinds : ndarray of shape (n_pairs,) of str, as the preferences are, so after `noise`
        - subtypes : ndarray of shape (n_pairs, 2) of str, "insult", "threat", "obscenity", "identity" or
          "none"
        - hard : ndarray of shape (n_pairs, 2) of str, the kind of hard case or ""
        - flipped : ndarray of shape (n_pairs,), bool, the preferences flipped by `noise`
        - DESCR : str

    Raises
    ------
    ValueError
        If a parameter is out of its range, or `kinds` has unknown names or does not add up to 1.

    See Also
    --------
    make_preferences : The same with features.

    Examples
    --------
    >>> from fairl_sk.datasets import make_detox_preferences
    >>> pairs = make_detox_preferences(n_pairs=100, random_state=0)
    >>> pairs.data.shape
    (100, 2)
    >>> int((pairs.kinds == "T->NT").sum())
    50
    """
    _check_number("n_pairs", n_pairs, 2, kind=Integral)
    _check_number("hard", hard, 0, 1)
    _check_number("noise", noise, 0, 0.5)
    rng = check_random_state(random_state)
    pair_kinds = _deal_kinds(rng, kinds, n_pairs)
    hard_outputs = rng.permutation(np.arange(2 * n_pairs) < round(hard * 2 * n_pairs)).reshape(n_pairs, 2)
    topics = [{slot: _pick(rng, _SLOTS[slot]) for slot in ("thing", "place")} for _ in range(-(-n_pairs // 4))]
    questions = [
        _fill(rng, _fill(rng, _pick(rng, _PROMPTS), topic="the {look} {thing} at {place}")[0], **topic)[0]
        for topic in topics
    ]
    prompt_of = rng.permutation(np.arange(n_pairs) % len(topics))

    outputs = []  # chosen, rejected
    for row, kind in enumerate(pair_kinds):
        toxic = [label == "T" for label in kind.split("->")[::-1]]
        outputs.append(_write_pair(rng, toxic, hard_outputs[row], topics[prompt_of[row]]))
    flipped = rng.random_sample(n_pairs) < noise
    target = _draw_sides(rng, n_pairs, shuffle_sides=True)

    def column(name, dtype=None):
        return _swap(np.array([[getattr(o, name) for o in pair] for pair in outputs], dtype=dtype), flipped)

    texts, rewards = column("text", object), column("reward")
    prompts = np.array([questions[number] for number in prompt_of], dtype=object)
    labels = (rewards > 0).astype(int)
    names = np.array(["T", "NT"])[labels]
    swap = target == 0
    return Bunch(
        data=_swap(texts, swap),
        target=target,
        prompt=prompts,
        groups=_group_rows(prompts, texts[:, 1]),
        reference_reward=_swap(rewards, swap),
        output_labels=_swap(labels, swap),
        kinds=np.array([f"{rejected}->{chosen}" for chosen, rejected in names]),
        subtypes=_swap(column("subtype"), swap),
        hard=_swap(column("hard"), swap),
        flipped=flipped,
        DESCR=f"{n_pairs} preference pairs of texts that fairl_sk wrote itself, {len(set(prompts))} prompts, "
        f"kinds (rejected->chosen) {dict(Counter(f'{r}->{c}' for c, r in names))}, hard={hard}, "
        f"noise={noise}. reference_reward is positive for non-toxic outputs; target 1 means that the first "
        "output is preferred.",
    )


_FORMATS = {
    "paradetox": "columns toxic and neutral1, neutral2, ...",
    "preference": "columns chosen and rejected, optionally prompt",
    "unpaired": "columns completion and label, optionally prompt, or any two named by text_column and label_column",
}
_SUFFIXES = ".tsv, .csv, .jsonl, .json (each also with .gz) and .parquet"
_TOXIC_COLUMN = re.compile(r"toxic|en_toxic_comment")
_NEUTRAL_COLUMN = re.compile(r"neutral\d*|en_neutral_comment")
_REWARD_COLUMNS = (("chosen_reward", "rejected_reward"), ("score_chosen", "score_rejected"))
_IF_CUT = "It is the last record: if the file is cut there, fetch it again. Otherwise"
_LINE_END = re.compile(r"\r\n|\r|\n")
_SPEAKER = "\n\nAssistant:"
_TURN = re.compile(r"(?:\A|\n\n)(?:Human|Assistant):")


class _Row(NamedTuple):
    """One pair (texts: chosen, rejected) or one output (texts: itself), and the record it was read from."""

    source: int
    where: str
    prompt: str
    texts: tuple
    label: Any = None
    rewards: Any = None
    output_labels: Any = None


def load_preferences(
    path,
    *,
    format="auto",
    text_column=None,
    label_column=None,
    desirable=None,
    split_prompt="auto",
    quoted=True,
    shuffle_sides=True,
    random_state=0,
    encoding="utf-8",
    limit=None,
):
    r"""Read preference pairs, or labelled outputs, from a file.

    The suffix says how the file is written (.tsv, .csv, .jsonl or .json, each also with .gz, and .parquet),
    its columns say what it holds. Nothing is repaired in silence: texts stay as they are, a line that cannot
    be read is an error with its number, and each record that is left out is counted in `dropped`.

    Parameters
    ----------
    path : str or path-like
        The file.
    format : {"auto", "paradetox", "preference", "unpaired"}, default="auto"
        What the columns mean.

        - "paradetox": `toxic` and `neutral1`, `neutral2`, ...: each rewrite that is not empty is chosen over
          the toxic comment.
        - "preference", as in TRL: `chosen` and `rejected`, and `prompt` if it is explicit. Texts, lists of
          messages (``{"role": ..., "content": ...}``) or transcripts (``"\n\nHuman: ...\n\nAssistant:
          ..."``). A file that `fairl_sk.generate.generate_preference_pairs` wrote is a sample of what two models
          say: all of it is kept but empty texts.
        - "unpaired", as in TRL: `completion` and `label`, and `prompt` if there is one; or the columns named
          below.
    text_column, label_column : str, default=None
        The columns of an unpaired file; None means "completion" and "label". Giving either one selects
        "unpaired".
    desirable : value or list of values, default=None
        The labels of desirable outputs, for example ``desirable=2`` or ``desirable=["neither", "fine"]``.
        None will do for two labels that are numbers or booleans: the greater is desirable. For pairs it is
        refused.
    split_prompt : {"auto", True, False}, default="auto"
        Where to look for the prompt of `chosen` and `rejected` that have no column `prompt`. The leading
        messages, or turns of a transcript, that both sides share are the prompt for "auto" and True. Plain
        texts have no such boundaries, and rewrites of one text begin with the same words without these being
        a prompt; so "auto" leaves them whole, and True cuts them after the last white space of their longest
        common beginning. Every cut leaves something of either side. False leaves all sides whole.
    quoted : bool, default=True
        Whether quotation marks in .tsv and .csv files enclose fields (RFC 4180, as spreadsheets and pandas
        write). False takes them as plain characters.
    shuffle_sides : bool, default=True
        True puts the chosen output first in exactly half of the pairs (rounded down), so that `target` has
        both classes; False in all of them, so that `target` is all ones.
    random_state : int, RandomState instance or None, default=0
        Which pairs have their chosen output first. The default gives the same sides in each call.
    encoding : str, default="utf-8"
        Encoding of a text file; a byte order mark is no part of the text.
    limit : int, default=None
        Read this many records at most, from the start of the file.

    Returns
    -------
    Bunch
        In the order of the file, with the attributes

        - data : ndarray of shape (n_pairs, 2) of str, or (n_samples,) for an unpaired file
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred, else 0; or of shape
          (n_samples,), 1 where the output is desirable
        - prompt : ndarray of shape (n_pairs,) of str, "" where a row has none; None if no row has one. It is
          kept apart: ``join_prompts(pairs.prompt, pairs.data)`` of `fairl_sk.pairs` gives the texts that an
          estimator reads from a table with the same columns
        - groups : ndarray of shape (n_pairs,) of int. Rows with the same prompt or the same rejected text
          (the same text, if unpaired) are one group, also through other rows: never split a group between
          train and test
        - reference_reward : ndarray of shape (n_pairs, 2) from the columns `chosen_reward` and
          `rejected_reward`, or `score_chosen` and `score_rejected`, NaN where empty; None if there are no
          such columns
        - output_labels : ndarray of shape (n_pairs, 2) of 0 and 1 (desirable) from the columns `chosen_label`
          and `rejected_label`; None if there are no such columns
        - dropped : dict of str to int, what was left out: "empty text", "identical sides", "duplicate" (the
          same prompt, chosen and rejected again), "contradiction" (the same two outputs, each preferred once:
          all of them), "no rewrite" (ParaDetox records with a toxic comment only), "no label". Together with
          the rows they add up to what was read
        - source_index : ndarray of shape (n_pairs,), the record of the file a row comes from, from 0
        - format : str, the format read
        - provenance : dict, the name of the file without its folder ("file") and the parameters with which it
          was read, as JSON can hold them; for generated pairs also the "settings" with which they were made
        - DESCR : str

        Several messages become one text, see `fairl_sk.pairs.to_text`: their contents, separated by an empty
        line, without the roles.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If a .parquet file is read without pyarrow.
    ValueError
        If a parameter is wrong, the file is empty, broken, in another encoding or in none of the formats, or
        fewer than two rows are left.

    Warns
    -----
    UserWarning
        If preferences contradict each other.

    See Also
    --------
    fairl_sk.pairs.join_prompts : Outputs behind their prompts.
    make_detox_preferences : Texts whose reward is known.

    References
    ----------
    .. [1] TRL, "Dataset formats and types", https://huggingface.co/docs/trl/dataset_formats
    .. [2] Y. Bai et al., "Training a Helpful and Harmless Assistant with RLHF", arXiv 2204.05862, 2022
           (transcripts).
    .. [3] V. Logacheva et al., "ParaDetox: Detoxification with Parallel Data", ACL 2022.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from fairl_sk.datasets import load_preferences
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "pairs.csv")
    ...     _ = path.write_text("chosen,rejected\nfine,darn\ngood,bad\ngood,bad\n")
    ...     pairs = load_preferences(path)
    >>> pairs.data.shape, pairs.dropped["duplicate"]
    ((2, 2), 1)
    """
    options = {name: value for name, value in locals().items() if name != "path"}
    path = _check_path(path)
    provenance = {"file": path.name, **{name: _plain(value) for name, value in options.items()}}
    if split_prompt not in ("auto", True, False):
        raise ValueError(f"split_prompt is {split_prompt!r}, but expected 'auto', True or False.")
    if limit is not None:
        _check_number("limit", limit, 1, kind=Integral)
    records = _read_records(path, encoding, quoted, limit)
    columns = list(records[0][1])
    format = _find_format(path, columns, format, (text_column, label_column))
    if format == "unpaired":
        rows = _read_unpaired(path, records, *_name_unpaired(text_column, label_column), desirable)
    elif desirable is not None:
        raise ValueError(
            f"desirable is {desirable!r}, but {path} was read as pairs (format {format!r}, columns {columns}). It says "
            "something about the labels of unpaired data only. Leave it out, or select other columns with text_column "
            "and label_column."
        )
    elif format == "paradetox":
        rows = _read_paradetox(path, records)
    else:
        rows = _read_preferences(path, records, split_prompt)
    settings = generation_settings(records[0][1]) if format == "preference" else None
    if settings is not None:
        provenance["settings"] = settings
    kept, dropped, contradictions = _drop_unusable(rows, sampled=settings is not None)
    if contradictions:
        warnings.warn(
            f"{path}: {len(contradictions)} rows contradict each other (the same two outputs, each preferred "
            "to the other, or one output with both labels) and were all dropped; the first are "
            f"{', '.join(contradictions[:4])}. Decide which of them hold and delete the others.",
            UserWarning,
            stacklevel=2,
        )
    if len(kept) < 2:
        raise _too_few(path, len(kept), len(rows), dropped)
    return _bunch(path, kept, dropped, format, check_random_state(random_state), shuffle_sides, provenance)


def generation_settings(record):
    """The settings in the first record of a file that `generate_preference_pairs` wrote; of any other, None."""
    settings = record.get("settings")
    return settings if isinstance(settings, dict) and "generated_by" in settings else None


def read_generated(records, provenance):
    """What `load_preferences` returns for these records of generated pairs, if they came from a file."""
    what = "The generated pairs"
    rows = _read_preferences(what, [(f"pair {n}", record) for n, record in enumerate(records, 1)], "auto")
    kept, dropped, _ = _drop_unusable(rows, sampled=True)
    if len(kept) < 2:
        raise _too_few(what, len(kept), len(rows), dropped)
    return _bunch("two models", kept, dropped, "preference", check_random_state(0), True, provenance)


def _too_few(path, n_kept, n_rows, dropped):
    counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items() if count) or "none"
    return ValueError(
        f"{path}: {n_kept} usable rows are left of {n_rows} (dropped: {counts}), but expected at "
        "least 2. Check that the columns hold what their names say."
    )


def _plain(value):
    """A parameter as JSON can hold it."""
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, str | bool | int | float) else " ".join(repr(value).split())


def _bunch(path, rows, dropped, format, rng, shuffle_sides, provenance):
    """See the return value of `load_preferences`."""
    n_rows = len(rows)
    texts = np.empty((n_rows, len(rows[0].texts)), dtype=object)
    texts[:] = [row.texts for row in rows]
    prompts = np.array([row.prompt for row in rows], dtype=object)
    rewards = None if rows[0].rewards is None else np.array([row.rewards for row in rows], dtype=float)
    labels = None if rows[0].output_labels is None else np.array([row.output_labels for row in rows], dtype=int)
    groups = _group_rows(prompts, texts[:, -1])
    if format == "unpaired":
        data, target = texts[:, 0], np.array([row.label for row in rows], dtype=int)
    else:
        target = _draw_sides(rng, n_rows, shuffle_sides)
        swap = target == 0
        data, rewards, labels = (None if a is None else _swap(a, swap) for a in (texts, rewards, labels))
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "nothing"
    return Bunch(
        data=data,
        target=target,
        prompt=prompts if any(prompts) else None,
        groups=groups,
        reference_reward=rewards,
        output_labels=labels,
        dropped=dropped,
        source_index=np.array([row.source for row in rows]),
        format=format,
        provenance=provenance,
        DESCR=f"{n_rows} {'labelled outputs' if format == 'unpaired' else 'preference pairs'} in "
        f"{groups.max() + 1} groups from {path} ({format}); left out: {left_out}.",
    )


def _check_path(path):
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path is a {type(path).__name__}, but expected the name of a file ({_SUFFIXES}).")
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"{path} is a folder, but expected a file. Pass one of the files in it; it holds {inside}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {Path.cwd()}). Check the name and the folder.")
    return path


def _read_records(path, encoding, quoted, limit):
    """Read all records as (where, dict); raise ValueError, with a remedy, for anything that is not a table."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    readers = {".tsv": _read_table, ".csv": _read_table, ".jsonl": _read_json, ".json": _read_json}
    if name.endswith(".parquet"):
        records = list(islice(_read_parquet(path), limit))
    elif suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}, but the suffixes known are {_SUFFIXES}. Rename the file.")
    else:
        previous = csv.field_size_limit(2**31 - 1)  # csv's own limit, 131,072 characters, is less than a long text
        try:
            with _open(path, encoding) as lines:
                delimiter = {".tsv": "\t", ".csv": ","}.get(suffix)
                records = list(islice(readers[suffix](path, lines, delimiter, quoted), limit))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {_undecodable_line(path, encoding)}: the bytes are not {encoding} "
                f"({error.reason}). Pass the encoding the file was written in, for example encoding='utf-16' "
                "or encoding='cp1252'."
            ) from error
        except UnicodeError as error:
            raise ValueError(f"{path}: not {encoding} ({error}). Pass the encoding the file was written in.") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged or no gzip file ({error}). Fetch it again, or remove .gz.") from error
        finally:
            csv.field_size_limit(previous)
    if not records:
        raise ValueError(f"{path} is empty: it holds no records. Expected at least 2. Write or fetch the file again.")
    return records


def _open(path, encoding, mode="rt"):
    try:
        codec = codecs.lookup(encoding).name
    except (LookupError, TypeError) as error:
        raise ValueError(f"encoding is {encoding!r}, which Python does not know. Try 'utf-8' or 'cp1252'.") from error
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    if mode == "rb":
        return opener(path, mode)
    return opener(path, mode, encoding="utf-8-sig" if codec == "utf-8" else encoding, newline="")


def _undecodable_line(path, encoding):
    """Number of the first line that is not in this encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with _open(path, encoding, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                decoder.decode(line)
            except UnicodeDecodeError:
                return number
    return number  # the file ends within a character


def _read_table(path, lines, delimiter, quoted):
    """Yield the records of a file of separated values; a record may span lines."""
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    header, first, n_records = None, 1, 0
    meaning = "are plain characters" if quoted else "enclose fields"
    switch = f"pass quoted={not quoted} if quotation marks {meaning}"
    try:
        for fields in reader:
            where, first = f"line {first}", reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                if len(set(header)) < len(header):
                    raise ValueError(f"{path}, {where}: column names occur twice in {header}. Rename the columns.")
            elif len(fields) != len(header):
                cut = len(fields) < len(header) and not any(line.strip() for line in lines)
                remedy = f"{_IF_CUT} quote" if cut else "Quote"
                raise ValueError(
                    f"{path}, {where}: found {len(fields)} fields, but expected {len(header)} "
                    f"({', '.join(header)}). {remedy} fields that hold a separator or a line break, or {switch}."
                )
            else:
                n_records += 1
                yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        cut = "unexpected end of data" in str(error)
        remedy = f"{_IF_CUT} close" if cut else "Close"
        raise ValueError(
            f"{path}, line {first}: broken record ({error}). {remedy} its quotation marks and double those within a "
            f"field, or {switch}."
        ) from error
    if header is not None and not n_records:
        raise ValueError(
            f"{path} has a header ({', '.join(header)}), but no records below it. Expected at least 2. Write or fetch "
            "the file again."
        )


def _read_json(path, lines, delimiter=None, quoted=None):
    """Yield the records of JSON Lines, or of one list, whichever the first character announces."""
    remedy = "Expected one JSON object a line, or one list of objects. Repair or delete it."
    fresh = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if fresh and line.lstrip().startswith("["):
            records = _parse_json(path, number, line + lines.read(), remedy)
            found = ((f"record {n}", record) for n, record in enumerate(records, 1))
        else:
            found = [(f"line {number}", _parse_json(path, number, line, remedy))]
        fresh = False
        for where, record in found:
            if not isinstance(record, dict):
                raise ValueError(f"{path}, {where}: found {type(record).__name__}, not an object. {remedy}")
            yield where, record


def _parse_json(path, number, text, remedy):
    text = text.rstrip()  # a record that is cut at its end is at fault there, not on the next line
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + len(_LINE_END.findall(text, 0, error.pos))
        where = f"line {line}: no JSON ({error.msg}, column {error.colno})"
        raise ValueError(f"{path}, {where}. {remedy}") from error
    except ValueError as error:  # a number too long for an int
        raise ValueError(f"{path}, line {number}: no JSON ({error}). {remedy}") from error


def _read_parquet(path):
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError('A .parquet file needs pyarrow. Install it: pip install "fairl-sk[parquet]"') from error
    try:
        with ParquetFile(path) as table:
            records = (record for batch in table.iter_batches() for record in batch.to_pylist())
            for number, record in enumerate(records, 1):
                yield f"record {number}", record
    except ArrowException as error:
        raise ValueError(f"{path}: no Parquet file ({error}). Write or fetch it again.") from error


def _known_formats():
    return "one of the formats " + "; ".join(f"{name!r} ({columns})" for name, columns in _FORMATS.items())


def _name_unpaired(text_column, label_column):
    """The columns of an unpaired file."""
    return "completion" if text_column is None else text_column, "label" if label_column is None else label_column


def _find_format(path, columns, format, unpaired_columns):
    """The format the columns show, or the one asked for if they have what it needs."""
    text, label = _name_unpaired(*unpaired_columns)
    fits = {
        "paradetox": any(map(_TOXIC_COLUMN.fullmatch, columns)) and any(map(_NEUTRAL_COLUMN.fullmatch, columns)),
        "preference": {"chosen", "rejected"} <= set(columns),
        "unpaired": {text, label} <= set(columns),
    }
    if format not in ("auto", *_FORMATS):
        raise ValueError(f"format is {format!r}, but expected 'auto' or {_known_formats()}.")
    if any(name is not None for name in unpaired_columns):
        if format not in ("auto", "unpaired"):
            raise ValueError(f"text_column and label_column go with format='unpaired', but format is {format!r}.")
        if not fits["unpaired"]:
            missing = [name for name in (text, label) if name not in columns]
            raise ValueError(f"{path} has no column {missing}. Its columns are {columns}; name two of them.")
        return "unpaired"
    found = format if format != "auto" else next((name for name in fits if fits[name]), None)
    if found is None or not fits[found]:
        expected = _known_formats() if found is None else f"{found!r} ({_FORMATS[found]})"
        raise ValueError(
            f"{path}: the columns are {columns}, but expected {expected}. Rename the columns, or name those "
            "of an unpaired file with text_column and label_column."
        )
    return found


def _value(path, where, record, column):
    """The value of a column, "" if it is null."""
    if column not in record:
        raise ValueError(f"{path}, {where}: no column {column!r}, only {list(record)}. Add it, or delete the record.")
    return "" if record[column] is None else record[column]


def _text(path, where, value, column):
    """A text as it is; messages as one text."""
    try:
        return to_text(value)
    except ValueError as error:
        raise ValueError(
            f"{path}, {where}: column {column!r} holds {type(value).__name__} {str(value)[:60]!r}, but "
            "expected a text, or a list of messages like {'role': 'user', 'content': 'a text'}. Convert "
            "it, or delete the record."
        ) from error


def _read_paradetox(path, records):
    """One row for each rewrite; one without a chosen text for a comment that nobody rewrote."""
    columns = list(records[0][1])
    toxic_column = next(filter(_TOXIC_COLUMN.fullmatch, columns))
    neutral_columns = list(filter(_NEUTRAL_COLUMN.fullmatch, columns))
    rows = []
    for source, (where, record) in enumerate(records):
        toxic, *rewrites = (
            _text(path, where, _value(path, where, record, column), column)
            for column in (toxic_column, *neutral_columns)
        )
        rewrites = [rewrite for rewrite in rewrites if rewrite.strip()] or [None]
        rows += [_Row(source, where, "", (rewrite, toxic)) for rewrite in rewrites]
    return rows


def _read_preferences(path, records, split_prompt):
    columns = records[0][1].keys()
    reward_columns = next((pair for pair in _REWARD_COLUMNS if columns >= set(pair)), None)
    has_labels = columns >= {"chosen_label", "rejected_label"}
    rows = []
    for source, (where, record) in enumerate(records):
        prompt = None
        if "prompt" in columns:
            prompt = _text(path, where, _value(path, where, record, "prompt"), "prompt")
        sides = [_value(path, where, record, side) for side in ("chosen", "rejected")]
        prompt, *texts = _split_prompt(path, where, prompt, *sides, split_prompt)
        rewards = labels = None
        if reward_columns:
            rewards = [_read_reward(path, where, record, column) for column in reward_columns]
        if has_labels:
            labels = [_read_output_label(path, where, record, f"{side}_label") for side in ("chosen", "rejected")]
        rows.append(_Row(source, where, prompt, tuple(texts), None, rewards, labels))
    return rows


def _read_reward(path, where, record, column):
    value = _value(path, where, record, column)
    try:
        return np.nan if value == "" else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, {where}: {column} is {value!r}, but expected a number or nothing.") from error


def _read_output_label(path, where, record, column):
    value = _canonical_label(_value(path, where, record, column))
    if value not in (0, 1):
        raise ValueError(f"{path}, {where}: {column} is {value!r}, but expected 0 or 1 (desirable), or true or false.")
    return value


def _split_prompt(path, where, prompt, chosen, rejected, split_prompt):
    """Return (prompt, chosen, rejected) as texts; see `split_prompt` of `load_preferences`."""
    texts = tuple(_text(path, where, side, column) for side, column in ((chosen, "chosen"), (rejected, "rejected")))
    if all(texts) and type(chosen) is not type(rejected):
        raise ValueError(
            f"{path}, {where}: one side is a text, the other a list of messages, but expected both to be "
            "alike. Convert one of them, or delete the record."
        )
    if not all(texts) or not split_prompt:
        return prompt or "", *texts
    if isinstance(chosen, list):
        return split_messages(prompt, chosen, rejected)
    if prompt is not None:
        return prompt, *texts
    if _is_transcript(chosen) and _is_transcript(rejected):
        return _split_transcript(chosen, rejected)
    cut = 0 if split_prompt == "auto" else _common_words(chosen, rejected)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _is_transcript(text):
    return text.lstrip().startswith("Human:") and _SPEAKER in text


def _split_transcript(chosen, rejected):
    """Cut after the turns that both share, and after the next "Assistant: " if both go on with it."""
    turns = []
    for text in (chosen, rejected):
        starts = [turn.start() for turn in _TURN.finditer(text)] or [0]
        starts[0] = 0
        turns.append([text[i:j] for i, j in zip(starts, [*starts[1:], None], strict=True)])
    cut = len("".join(turns[0][: count_shared(*turns)]))
    after = cut + len(_SPEAKER)
    sides = chosen, rejected
    # An answer that follows the colon at once keeps its speaker: join_prompt would set the two apart.
    if all(side.startswith(_SPEAKER, cut) and not side[after : after + 1].strip() for side in sides):
        cut = after + all(side.startswith(" ", after) for side in sides)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _common_words(chosen, rejected):
    """Length of the longest common beginning that ends in white space and leaves a word of either text."""
    most = min(len(chosen.rstrip()), len(rejected.rstrip())) - 1
    cut = min(len(os.path.commonprefix([chosen, rejected])), max(most, 0))
    while cut and not chosen[cut - 1].isspace():
        cut -= 1
    return cut


def _read_unpaired(path, records, text_column, label_column, desirable):
    rows = []
    for source, (where, record) in enumerate(records):
        text = _text(path, where, _value(path, where, record, text_column), text_column)
        prompt = record["prompt"] if "prompt" in record and text_column != "prompt" else None
        prompt = _text(path, where, "" if prompt is None else prompt, "prompt")
        label = _canonical_label(_value(path, where, record, label_column))
        rows.append(_Row(source, where, prompt, (text,), label))
    desirable = _check_desirable(path, label_column, {row.label for row in rows} - {None}, desirable)
    return [row if row.label is None else row._replace(label=int(row.label in desirable)) for row in rows]


def _canonical_label(value):
    """A number for what reads as number or boolean, None for nothing, else the text: "2", 2, 2.0 are one label."""
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        return text or None
    return None if np.isnan(number) else int(number) if number.is_integer() else number


def _check_desirable(path, column, found, desirable):
    """Labels that mean desirable, as a set."""
    listed = ", ".join(map(repr, sorted(found, key=str)))
    if desirable is not None:
        values = desirable if isinstance(desirable, list | tuple | set | frozenset | np.ndarray) else [desirable]
        wanted = {_canonical_label(value) for value in values}
        if not wanted <= found or wanted >= found:
            raise ValueError(
                f"desirable is {desirable!r}, but column {column!r} of {path} holds the labels {listed}. "
                "Name one of them or more, but not all."
            )
        return wanted
    if len(found) == 2 and not any(isinstance(label, str) for label in found):
        return {max(found)}
    raise ValueError(
        f"Column {column!r} of {path} holds the labels {listed}: which of them are desirable? Only of two "
        "numbers or booleans the greater is taken. Find out what each label means, and name the desirable ones: "
        "desirable=[...]."
    )


def _drop_unusable(rows, sampled=False):
    """Return the rows kept, the count of those dropped for each reason, and where the contradictions are.

    ``sampled`` rows are what two models happened to say: all of them count but those without a text.
    """
    dropped = dict.fromkeys(
        ("empty text", "identical sides", "duplicate", "contradiction", "no rewrite", "no label"), 0
    )
    if sampled:
        kept = [row for row in rows if all(text.strip() for text in row.texts)]
        return kept, {**dropped, "empty text": len(rows) - len(kept)}, []
    unique = {}
    for row in rows:
        key = (row.prompt, row.texts, row.label)
        reason = _unusable(row) or ("duplicate" if key in unique else None)
        if reason:
            dropped[reason] += 1
        else:
            unique[key] = row
    kept, contradictions = [], []
    for (prompt, texts, label), row in unique.items():
        mirror = (prompt, texts[::-1], None if label is None else 1 - label)
        (contradictions if mirror in unique else kept).append(row)
    dropped["contradiction"] = len(contradictions)
    return kept, dropped, [row.where for row in contradictions]


def _unusable(row):
    """Why a row is of no use by itself, or None."""
    if row.texts[0] is None:
        return "no rewrite"
    if not all(text.strip() for text in row.texts):
        return "empty text"
    if len(row.texts) == 2 and row.texts[0] == row.texts[1]:
        return "identical sides"
    return "no label" if len(row.texts) == 1 and row.label is None else None
