"""Texts of the data in what an audit writes: shortened, masked, or left out. `page` and `report` read it."""

import re

TEXTS = ("shortened", "masked", "none")  # how a report shows texts of the data
# Of rows, wherever they are strings:
TEXT_FIELDS = ("output", "preferred", "other", "prompt", "text", "word", "token", "decided_by")
_CUT = re.compile(r"[\d\s().+-]*\S*[.]{3}$")  # the last, perhaps cut, word of a shortened text, with digits before it
_MASKS = (
    (re.compile(r"\b(?:https?|ftp)://\S+|\bwww[.]\S+", re.I), "[URL]"),
    (re.compile(r"[\w.+%-]+@[\w-]+(?:[.][\w-]+)+"), "[E-MAIL]"),
    (re.compile(r"(?<!\w)@\w+"), "[NAME]"),
    (re.compile(r"(?<!\w)[+(]{0,2}\d(?:[ ().:/-]{0,2}\d){5,}(?!\w)|\d{6,}"), "[NUMBER]"),
)


def mask(text):
    """Mask e-mail addresses, URLs, @names and numbers of six digits or more, and the cut end of a shortened text.

    Parameters
    ----------
    text : str

    Returns
    -------
    text : str

    Examples
    --------
    >>> from fairl_sk.audit.texts import mask
    >>> mask("Write to jo@example.org or call +49 170 1234567, @jo")
    'Write to [E-MAIL] or call [NUMBER], [NAME]'
    """
    text = text[:-200] + _CUT.sub("...", text[-200:])
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text


def with_texts(result, texts):
    """A copy of an audit whose texts are as a report shows them. Everything that is written is made from this copy.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    texts : {"shortened", "masked", "none"}
        "shortened": as they are in the result. "masked": by `mask`. "none": left out; row numbers stay.

    Returns
    -------
    result : Bunch
    """
    if texts not in TEXTS:
        raise ValueError(f"texts is {texts!r}, but expected one of {', '.join(map(repr, TEXTS))}.")
    if texts == "shortened":
        return result
    data = {name: _changed(value, texts) for name, value in result.items() if name != "pipelines"}
    return type(result)(**data, pipelines=result.pipelines)


def _changed(value, texts):
    if isinstance(value, list):
        return [_changed(part, texts) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, part in value.items():
        if name in TEXT_FIELDS and isinstance(part, str):
            kept |= {} if texts == "none" else {name: mask(part)}
        else:
            kept[name] = _changed(part, texts)
    return kept
