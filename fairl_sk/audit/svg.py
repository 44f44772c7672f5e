"""A section's picture as SVG inside a page: its colors follow the page, its letters are text. `page` reads it.

Matplotlib and not Plotly: Plotly's script alone has 4 MB, and a report of a few static pictures should open anywhere.
"""

import io
import re
import warnings

from markupsafe import Markup, escape

from ..plot import COLORS

STYLE = {
    "svg.fonttype": "none",  # letters as text: small, and in the page's font
    "text.parse_math": False,  # a dollar sign in the data is a dollar sign
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
WIDE = 500  # pixels; the page does not shrink wider ones to the width of a phone, but scrolls them
_GRAY = re.compile(r"#([0-9a-f]{2})\1\1\b", re.I)
_FONTS = re.compile(r"'DejaVu Sans'[^;\"]*sans-serif")


def svg_of(picture):
    """Draw a picture as an SVG element.

    Parameters
    ----------
    picture : Picture

    Returns
    -------
    svg : markupsafe.Markup
        Black, grays and the colors of `fairl_sk.plot` are the variables ``--ink``, ``--paper`` and ``--c0`` to ``--c4``
        of the page.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": picture.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the reader's browser has it
        figure = picture.draw()
        figure.savefig(file, format="svg", metadata={"Date": None})
        _close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{picture.name}-", text)  # several pictures share one page
    for number, color in enumerate(COLORS):
        text = re.sub(color, f"var(--c{number})", text, flags=re.I)
    text = _GRAY.sub(lambda found: _gray(int(found[1], 16) / 255), text)
    text = _FONTS.sub("sans-serif", text)
    label = escape(picture.alt)
    head, rest = text.split(">", 1)
    size = re.sub(r'\b(width|height)="([\d.]+)pt"', "", head)
    width = float(re.search(r'width="([\d.]+)pt"', head)[1]) * 96 / 72
    wide = ' class="wide"' if width > WIDE else ""
    return Markup(f'{size} role="img" aria-label="{label}"{wide} style="width: {width:.0f}px">{rest.strip()}')


def _gray(light):
    if light in (0.0, 1.0):
        return "var(--paper)" if light else "var(--ink)"
    return f"color-mix(in srgb, var(--ink) {1 - light:.0%}, var(--paper))"


def _close(figure):
    import matplotlib.pyplot as plt

    plt.close(figure)
