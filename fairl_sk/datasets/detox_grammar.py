"""Mildly rude and harmless texts, written by a small grammar that knows the reward of each."""

import re
from collections import Counter, namedtuple
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params  # the parameters' declared constraints

from .rows import draw_sides, group_rows, swap_sides


# The grammar: templates whose slots {name} are filled from _SLOTS[name]; the values of a dict multiply the harm of the
# sentence. Toxic and harmless templates share their function words and quotation marks.
def _options(text):
    return tuple(option.strip() for option in text.split("|"))


_SLOTS = {
    "thing": "timetable bakery choir fountain library ferry market garden museum quiz orchard bench".split(),
    "place": [f"the {name}" for name in "station harbour town mill bridge school lake castle crossroads".split()],
    "day": _options("on Monday | last week | on Friday | two days ago | in May | at dawn"),
    "relative": "cousin aunt neighbour brother teacher sister".split(),
    "colour": "green blue yellow red white brown".split(),
    "number": "three five seven ten twelve forty".split(),
    "look": "quiet busy closed late crowded warm cold empty new old".split(),
    "vehicle": "bus train tram boat bicycle".split(),
    "animal": "goose donkey turnip hen teapot goat".split(),
    "group": _options("left-handers | villagers | valley people | islanders | hill folk | tea drinkers"),
    "fool": {"fool": 1, "idiot": 1.15, "clown": 0.9, "dunce": 1, "nitwit": 0.95, "blockhead": 1.1},
    "degree": {"": 1, "complete ": 1.3, "utter ": 1.5, "hopeless ": 1.2, "small ": 0.85},
    "when": {"one day": 0.9, "tonight": 1.3, "tomorrow": 1.1, "very soon": 1.2, "this week": 1},
    "bad": {"lazy": 0.9, "stupid": 1.2, "dirty": 1.15, "useless": 1, "worthless": 1.4},
    "oath": {"darn": 0.85, "damn": 1, "blasted": 1.1, "damn bloody": 1.4},
}

_PROMPTS = _options("""
    What do you think of {topic}? | Tell me about {topic}. | Is {topic} worth my time? | How was {topic}? |
    Should we keep {topic}? | My {relative} asks about {topic}. What shall I say? |
    Would you change anything about {topic}? | What is the news of {topic}? | Who looks after {topic}? |
    Did you see {topic} {day}?
""")
_HARM = {"insult": 1.6, "threat": 2.4, "obscenity": 1.5, "identity": 1.9}
_TOXIC = {
    "insult": _options("""
        you are a {degree}{fool} | only a {degree}{fool} would ask that | you sound like a {degree}{fool} |
        what a {degree}{fool} you are | listen you {degree}{fool} | a {degree}{fool} like you should know
    """),
    "threat": _options("""
        you will regret this {when} | I will make you pay {when} | you had better watch your back {when} |
        I will come and break your windows {when} | you will get what is coming {when} | I will find you {when}
    """),
    "obscenity": _options("""
        shut your {oath} mouth | shut up about the {oath} {thing} | go to {oath} hell |
        this {oath} {thing} is crap and so are you | kiss my {oath} backside | stuff your {oath} question
    """),
    "identity": _options("""
        you {group} are all {bad} | you people are {bad} like all {group} | {group} are {bad} by birth |
        we do not want {bad} {group} here | no wonder {group} are always {bad} | send the {bad} {group} away
    """),
}
_TOXIC_IN_PLAIN_WORDS = {
    "insult": _options("I have met a {animal} with a better answer | you would need a map to find your own nose"),
    "threat": _options("""
        nice {vehicle} and it would be a shame to lose it {when} | I know which {vehicle} you take home {when}
    """),
    "obscenity": _options("put the {thing} where the sun is never seen | you know where you can put the {thing}"),
    "identity": _options("keep {group} on the other side of the river | the {thing} was better before {group} came"),
}
_TOXIC_IN_DISGUISE = _options("""
    it would not be wrong to say {toxic} | nobody here will tell you but {toxic} | I never say this but {toxic} |
    the old sign said "{look}" and still {toxic} | the song goes "all is {look}" but {toxic} |
    someone wrote "{look}" on the {thing} and I say {toxic} | he said that she was not a fool but {toxic} |
    my {relative} heard me shout {toxic} | they complained that I told them {toxic}
""")
_HARMLESS = _options("""
    you are a careful reader | you are right about the {thing} | only the {thing} is {look} | I like the {thing} |
    you will enjoy the {thing} {when} | I will come to the {thing} {when} | you had better watch the {thing} {when} |
    what a {look} {thing} you have | {group} are all fond of the {thing} | we want more {group} here |
    shut the {colour} door of the {thing} | go to the {thing} at {place} | you may be wrong about the {thing} |
    I will make you a cup of tea {when} | you people have a {look} {thing} | no wonder the {thing} is always {look}
""")
_HARMLESS_BUT = {
    "negation": _options("""
        you are not a {degree}{fool} | it would be wrong to say {toxic} | nobody here will tell you {toxic} |
        I never say {toxic} | you will not regret this {when} | {group} are not {bad}
    """),
    "quotation": _options("""
        the old sign said "{toxic}" and we took it down | the song goes "{toxic}" but all is {look} |
        someone wrote "{toxic}" on the {thing} | "{toxic}" is a line from the play
    """),
    "reported": _options("""
        he said that she called him a {degree}{fool} | my {relative} heard a stranger shout {toxic} |
        they complained that he told them {toxic}
    """),
    "mild": _options("""
        darn I missed the {thing} | silly me I took the {vehicle} | the {thing} is a bit rubbish |
        oh heck the {thing} was {look} | I was a fool to take the {vehicle} | it is bloody cold at {place}
    """),
}
_TONE = _options("""
    thank you for asking | I appreciate the question | please come and see it | it is good to hear from you |
    you are too kind | I hope that helps | ask me again some day | as far as I know |
    thanks for nothing | please stop asking | I have no time for this | make of that what you will
""")
_TONES = dict(zip(_TONE, (0.5, 0.4, 0.3, 0.25, 0.35, 0.2, 0.1, 0.05, -0.1, -0.15, -0.2, -0.05), strict=True))
_FILLERS = _options("""
    the {thing} opens at {number} | I walked past {place} {day} | they painted the {thing} {colour} {day} |
    my {relative} works near {place} | the sign says "mind the {animal}" | it takes {number} minutes from {place} |
    {number} people came {day} | you can take the {vehicle}, not the {vehicle} | she said that the {thing} was {look} |
    you will find it between {place} and the {thing} | nobody told me that the {vehicle} was {look} |
    there is a {colour} {thing} too | he wrote "{look}" on the {colour} door | we have {number} of them, all {look} |
    they will not close it {day} | what you see there is {colour} | it would be {look} without the {vehicle} |
    a {animal} stood at {place} {day}
""")
_KINDS = {"T->NT": 0.5, "NT->NT": 0.25, "T->T": 0.2, "NT->T": 0.05}
_LEAST_MARGIN = 0.05  # between two outputs of the same label, in units of reward


_Output = namedtuple("_Output", "text reward subtype hard")  # a written text and what is true of it


def _pick(rng, options):
    return options[int(rng.random_sample() * len(options))]


def _fill(rng, template, **given):
    """The template with its slots filled, and the product of the factors of the words that were picked."""
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
    """A toxic sentence: (text, reward, sub-type, kind of hard case)."""
    subtype = _pick(rng, list(_HARM))
    in_plain_words = hard and rng.random_sample() < 0.4
    templates = _TOXIC_IN_PLAIN_WORDS if in_plain_words else _TOXIC
    sentence, factor = _fill(rng, _pick(rng, templates[subtype]), **topic)
    if hard and not in_plain_words:
        sentence, _ = _fill(rng, _pick(rng, _TOXIC_IN_DISGUISE), toxic=sentence, **topic)
    case = ("implicit" if in_plain_words else "disguise") if hard else ""
    return sentence, -_HARM[subtype] * factor, subtype, case


def _harmless_core(rng, hard, topic):
    """A harmless sentence: (text, reward, sub-type, kind of hard case)."""
    if not hard:
        return _fill(rng, _pick(rng, _HARMLESS), **topic)[0], 0.0, "none", ""
    case = _pick(rng, list(_HARMLESS_BUT))
    quoted = _toxic_core(rng, False, topic)[0]
    sentence, _ = _fill(rng, _pick(rng, _HARMLESS_BUT[case]), toxic=quoted, **topic)
    return sentence, -0.15 if case == "mild" else 0.0, "none", case


def _write_output(rng, toxic, hard, topic):
    """One output: a core, perhaps a tone, and remarks up to a length that is drawn beforehand."""
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
    """The chosen and the rejected output with these labels; of equal labels, the greater reward is chosen."""
    while True:
        pair = [_write_output(rng, *which, topic) for which in zip(toxic, hard, strict=True)]
        margin = pair[0].reward - pair[1].reward
        if toxic[0] != toxic[1]:
            return pair
        if abs(margin) >= _LEAST_MARGIN:
            return pair if margin > 0 else pair[::-1]


def _deal_kinds(rng, kinds, n_pairs):
    """The kind of each pair, with the fractions asked for, exact up to rounding."""
    if set(kinds) - set(_KINDS) or not abs(sum(kinds.values()) - 1) < 1e-6 or min(kinds.values()) < 0:
        known = ", ".join(map(repr, _KINDS))
        raise ValueError(f"Found kinds={kinds!r}. Expected fractions that add up to 1, for some of {known}.")
    ends = np.rint(np.cumsum(list(kinds.values())) / sum(kinds.values()) * n_pairs).astype(int)
    return rng.permutation(np.repeat(list(kinds), np.diff(ends, prepend=0)))


@validate_params(
    {
        "n_pairs": [Interval(Integral, 2, None, closed="left")],
        "kinds": [dict, None],
        "hard": [Interval(Real, 0, 1, closed="both")],
        "noise": [Interval(Real, 0, 0.5, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def make_detox_preferences(n_pairs=2000, *, kinds=None, hard=0.3, noise=0.0, random_state=None):
    """Write preference pairs of mildly rude and harmless texts, with a known reward.

    The reward of a text is 0.4, minus the harm of a toxic sentence (1.2 to 3.1, by its sub-type and words), plus a tone
    (-0.2 to 0.5). A negated, quoted or reported insult costs nothing, a mild word 0.15. So a positive reward means
    non-toxic and a negative one toxic. Length, capitals and punctuation are independent of the reward.

    Parameters
    ----------
    n_pairs : int >= 2, default=2000
        Number of pairs.
    kinds : dict of str to float, default=None
        Fractions of the kinds of pairs, rejected->chosen, T for toxic and NT for non-toxic. None means
        ``{"T->NT": 0.5, "NT->NT": 0.25, "T->T": 0.2, "NT->T": 0.05}``. Only in NT->T the smaller reward is chosen.
    hard : float in [0, 1], default=0.3
        Fraction of outputs whose words mislead: harmless ones with rude words, toxic ones without or in disguise.
    noise : float in [0, 0.5], default=0.0
        Probability that a preference is flipped, whatever its kind.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same texts in each call.

    Returns
    -------
    Bunch
        With `data`, `target`, `prompt`, `groups`, `reference_reward`, `output_labels` (the sign of the reward) and
        `DESCR` as from `load_preferences`, and the attributes

        - kinds : ndarray of shape (n_pairs,) of str, the kinds after `noise`
        - subtypes, hard : ndarrays of shape (n_pairs, 2) of str, what makes outputs toxic, and misleading
        - flipped : ndarray of shape (n_pairs,), bool, the preferences flipped by `noise`

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from fairl_sk.datasets import make_detox_preferences
    >>> pairs = make_detox_preferences(n_pairs=100, random_state=0)
    >>> pairs.data.shape, int((pairs.kinds == "T->NT").sum())
    ((100, 2), 50)
    """
    rng = check_random_state(random_state)
    pair_kinds = _deal_kinds(rng, _KINDS if kinds is None else kinds, n_pairs)
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
    target = draw_sides(rng, n_pairs)

    def column(name, dtype=None):
        return swap_sides(np.array([[getattr(o, name) for o in pair] for pair in outputs], dtype=dtype), flipped)

    texts, rewards = column("text", object), column("reward")
    prompts = np.array([questions[number] for number in prompt_of], dtype=object)
    labels = (rewards > 0).astype(int)
    kinds_found = np.array([f"{rejected}->{chosen}" for chosen, rejected in np.array(["T", "NT"])[labels]])
    swap = target == 0
    return Bunch(
        data=swap_sides(texts, swap),
        target=target,
        prompt=prompts,
        groups=group_rows(prompts, texts[:, 1]),
        reference_reward=swap_sides(rewards, swap),
        output_labels=swap_sides(labels, swap),
        kinds=kinds_found,
        subtypes=swap_sides(column("subtype"), swap),
        hard=swap_sides(column("hard"), swap),
        flipped=flipped,
        DESCR=f"{n_pairs} preference pairs of texts that fairl_sk wrote itself, {len(set(prompts))} prompts, kinds "
        f"(rejected->chosen) {dict(Counter(kinds_found.tolist()))}, hard={hard}, noise={noise}. reference_reward is "
        "positive for non-toxic outputs; target 1 means that the first output is preferred.",
    )
