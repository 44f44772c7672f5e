"""Cheap properties of an output's text, such as its length, and the edits that remove one. The audit asks of each
property whether it explains the preferences.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Chinese and Japanese put no spaces between words: each of their characters counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’]\w+)?")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_PUNCTUATION = re.compile("[!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u303f\uff01-\uff0f\u060c\u061b\u061f]")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_MARKS = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)]|#{1,6})[ \t]|```|`|\*\*", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(?:i can['’]?t|i cannot|i could not|i couldn['’]?t|i won['’]?t|i will not|i['’]?m (?:not able|unable)|"
    r"i am (?:not able|unable)|i['’]?m sorry|i am sorry|as an ai|not able to help|unable to (?:help|assist|answer))\b"
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|apparently|presumably|might|seems?|appears? to|likely|unsure|not sure|"
    r"i think|i guess|i believe|in my opinion|as far as i know|it depends|generally|usually|sort of|kind of)\b"
)
_POSITIVE = frozenset(
    """amazing appreciate appreciated awesome beautiful best better brilliant calm cheerful clear delighted easy enjoy
    enjoyed excellent fair fine friendly fun generous gentle glad good grateful great happy healthy help helpful honest
    hope kind like liked love loved lovely nice perfect please pleased pleasure polite proud respect right safe smart
    support sweet thank thanks true trust useful welcome well wise wonderful""".split()
)
_NEGATIVE = frozenset(
    """afraid angry annoying awful bad boring broken careless crap cruel damn dangerous dirty disgusting dumb evil fail
    failed fake false fear fool foolish guilty hate hated hell horrible hurt idiot idiots ignorant lazy liar lie lies
    lose mad mean nasty no nonsense pathetic poor problem regret rotten rubbish rude sad selfish shame sick silly stop
    stupid terrible trash ugly unfair useless weak wicked worse worst worthless wrong""".split()
)


def split_words(text):
    """The words of a text, in lower case; each Chinese or Japanese character is one."""
    return _WORD.findall(text.lower())


class Property(NamedTuple):
    """A number that tells something about a text.

    Attributes
    ----------
    measure : callable
        Texts (n,) -> values (n,). With ``needs_prompts``, of texts and their prompts.
    edit : callable, default=None
        Pairs of texts (n_pairs, 2) -> the same without the property, such as in lower case.
    edited : str, default=""
        What the edit does, in words.
    needs_prompts : bool, default=False
        Whether ``measure`` takes prompts (n,), too.
    """

    measure: Callable
    edit: Callable | None = None
    edited: str = ""
    needs_prompts: bool = False


def _of_each(function):
    return lambda texts: np.array([function(text) for text in texts], dtype=np.float64)


def _n_found(pattern, text):
    return len(pattern.findall(text))


def _share_of(pattern):
    """Share of characters that match."""
    return _of_each(lambda text: _n_found(pattern, text) / max(len(text), 1))


def _capitals(text):
    return sum(map(str.isupper, text)) / max(_n_found(_LETTER, text), 1)


def _not_latin(text):
    n_letters = _n_found(_LETTER, text)
    return 1 - min(_n_found(_LATIN, text), n_letters) / n_letters if n_letters else 0.0


def _share_of_words(listed):
    def share(text):
        words = split_words(text)
        return sum(word in listed for word in words) / max(len(words), 1)

    return _of_each(share)


def _hedges(text):
    return _n_found(_HEDGE, text.lower()) / max(len(split_words(text)), 1)


def _refusals(text):
    return _n_found(_REFUSAL, text.lower())


def prompt_overlap(texts, prompts):
    """Share of a text's distinct words that are in its prompt, (n,)."""
    shares = []
    for text, prompt in zip(texts, prompts, strict=True):
        words = set(split_words(text))
        shares.append(len(words & set(split_words(prompt))) / max(len(words), 1))
    return np.array(shares)


def _edit_each(function):
    def edit(texts):
        edited = np.empty(texts.shape, dtype=object)
        edited.flat = [function(text) for text in texts.flat]
        return edited

    return edit


def cut_to_equal_length(texts):
    """Pairs (n_pairs, 2) whose longer side is cut to the number of words of the shorter one."""
    cut = texts.copy()
    for row, pair in enumerate(texts):
        ends = [[word.end() for word in _WORD.finditer(text)] for text in pair]
        n_words = min(map(len, ends))
        for side in (0, 1):
            if len(ends[side]) > n_words:
                cut[row, side] = pair[side][: ends[side][n_words - 1]] if n_words else ""
    return cut


def _without_punctuation(text):
    return " ".join(_PUNCTUATION.sub(" ", text).split())


PROPERTIES = {
    "length in words": Property(
        _of_each(lambda text: _n_found(_WORD, text)), cut_to_equal_length, "both sides cut to the same number of words"
    ),
    "share of capitals": Property(_of_each(_capitals), _edit_each(str.lower), "lower case"),
    "share of punctuation": Property(
        _share_of(_PUNCTUATION), _edit_each(_without_punctuation), "punctuation taken out"
    ),
    "number of list and code marks": Property(_of_each(lambda text: _n_found(_MARKS, text))),
    "share of digits": Property(_share_of(re.compile(r"\d"))),
    "share of emoji": Property(_share_of(_EMOJI)),
    "number of refusals": Property(_of_each(_refusals)),
    "share of hedges": Property(_of_each(_hedges)),
    "share of positive words": Property(_share_of_words(_POSITIVE)),
    "share of negative words": Property(_share_of_words(_NEGATIVE)),
    "share of letters that are not Latin": Property(_of_each(_not_latin)),
    "overlap with the prompt": Property(prompt_overlap, needs_prompts=True),
}


def known_properties(properties=None):
    """The package's properties and those of the user.

    Parameters
    ----------
    properties : dict of str to callable or `Property`, default=None
        A function takes texts (n,) and gives numbers (n,). None as a value leaves out the package's property.

    Returns
    -------
    dict of str to `Property`

    Raises
    ------
    ValueError
        If a value is neither.
    """
    known = dict(PROPERTIES)
    for name, given in (properties or {}).items():
        if given is None and name in PROPERTIES:
            del known[name]
        elif isinstance(given, Property):
            known[name] = given
        elif callable(given):
            known[name] = Property(given)
        else:
            raise ValueError(
                f"Found properties[{name!r}]={given!r:.60}. Expected a function of texts (n,) that gives numbers (n,), "
                f"a Property, or None to leave out one of {list(PROPERTIES)}."
            )
    return known


def measure_properties(texts, prompts=None, properties=None):
    """Values of each property for each output.

    Parameters
    ----------
    texts : ndarray of str of shape (n_pairs, 2) or (n_outputs,)
    prompts : ndarray of str of shape (n_pairs,) or (n_outputs,), default=None
        None: the properties that need prompts are left out.
    properties : dict of str to `Property`, default=None
        From `known_properties`. None: those of the package.

    Returns
    -------
    dict of str to ndarray of the shape of ``texts``

    Raises
    ------
    ValueError
        If a function fails, or does not give one finite number for each text.
    """
    distinct, inverse = np.unique(texts.ravel().astype(object), return_inverse=True)
    values = {}
    for name, known in (PROPERTIES if properties is None else properties).items():
        if not known.needs_prompts:
            values[name] = _checked(name, known.measure, distinct)[inverse].reshape(texts.shape)
        elif prompts is not None:
            repeated = np.repeat(prompts, texts.size // max(len(texts), 1))
            values[name] = _checked(name, known.measure, texts.ravel(), repeated).reshape(texts.shape)
    return values


def _checked(name, measure, texts, *prompts):
    try:
        values = np.asarray(measure(texts, *prompts), dtype=np.float64)
    except Exception as error:  # whatever the user's function raises
        raise ValueError(
            f"The property {name!r} failed on {len(texts)} texts ({type(error).__name__}: {error}). Expected a "
            "function of an array of texts (n,) that gives numbers (n,)."
        ) from error
    if values.shape != (len(texts),) or not np.isfinite(values).all():
        raise ValueError(
            f"The property {name!r} gave an array of shape {values.shape} with {np.sum(~np.isfinite(values))} values "
            f"that are not finite, for {len(texts)} texts. Expected one finite number for each, ({len(texts)},)."
        )
    return values
