"""Texts of the data on a screen: control characters and spreadsheet formulas are made visible, not obeyed."""

import unicodedata

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text, keep=""):
    r"""Write control characters as escapes, such as ``\x1b``, so that a terminal or a browser does not obey them.

    Parameters
    ----------
    text : str
    keep : str, default=""
        Characters that stay, such as a line break.

    Returns
    -------
    text : str
        C0 and C1 controls, overrides of the writing direction, and halves of surrogate pairs are escaped.
    """

    def shown(character):
        hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI
        return ascii(character)[1:-1] if hidden and character not in keep else character

    return text if text.isprintable() and not _BIDI & set(text) else "".join(map(shown, text))


def csv_cell(value):
    """A cell of a CSV file that no spreadsheet takes for a formula: a text that begins like one gets a quote before.

    So does a text that begins like the result, so that `from_csv_cell` gives each text again.

    Parameters
    ----------
    value : object
        Texts change; numbers do not.

    Returns
    -------
    value : object
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def from_csv_cell(text):
    """The text that `csv_cell` was given.

    Parameters
    ----------
    text : str

    Returns
    -------
    text : str
    """
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text):
    return text.lstrip("'").startswith(FORMULA)
