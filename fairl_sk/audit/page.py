"""The report as one HTML page without network: the verdict, then sections of plain sentences, pictures and tables."""

import html
import re

from markupsafe import Markup, escape
from sklearn.utils import Bunch

from ..escaping import visible
from .compare import compare_section
from .how_good import how_good_section
from .label_errors import label_errors_section
from .learning_curve import learning_curve_section
from .made import made_section, source_name
from .novelty import novelty_section
from .objectives import objectives_section
from .shortcuts import shortcuts_section
from .subgroups import subgroups_section
from .svg import svg_of
from .tables import alignment_section
from .texts import with_texts
from .uncertainty import open_section
from .verdict import verdict

SECTIONS = (
    alignment_section,
    how_good_section,
    shortcuts_section,
    subgroups_section,
    objectives_section,
    label_errors_section,
    open_section,
    learning_curve_section,
    novelty_section,
    compare_section,
    made_section,
)


class AuditResult(Bunch):
    """What `audit` returns: a Bunch that a notebook shows as a page.

    Parameters
    ----------
    **kwargs : dict
        The parts of the result, see `audit`.
    """

    def to_html(self, *, texts="shortened"):
        """Make the report as one HTML page, without scripts and without network.

        Parameters
        ----------
        texts : {"shortened", "masked", "none"}, default="shortened"
            Texts of the data on the page. "masked": without e-mail addresses, URLs, @names and long numbers. "none":
            row numbers only.

        Returns
        -------
        page : str
        """
        return render_page(self, texts=texts)

    def _repr_html_(self):
        page = html.escape(self.to_html())
        style = "width: 100%; height: 50rem; border: 0"
        return f'<iframe sandbox title="Audit report" style="{style}" srcdoc="{page}"></iframe>'


def coded(text):
    """A sentence as HTML: control characters are shown, and what stands in backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


def render_page(result, *, texts="shortened"):
    """Make the report of an audit as one HTML page.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    texts : {"shortened", "masked", "none"}, default="shortened"
        See `AuditResult.to_html`.

    Returns
    -------
    page : str
    """
    import jinja2

    shown = with_texts(result, texts)
    sections = [section for make in SECTIONS if (section := make(shown)) is not None]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fairl_sk.audit"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "svg": svg_of, "coded": coded}
    page = environment.get_template("report.html").render(
        title=f"Audit of {source_name(result.settings)}",
        verdict=verdict(shown),
        sections=sections,
        settings=shown.settings,
        texts=texts,
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
