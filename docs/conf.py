"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build``, with no network."""

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number

import fairl_sk

logger = getLogger(__name__)

project = "fairl_sk"
author = "The fairl_sk developers"
version = release = fairl_sk.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinx_design"]
extensions += ["sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

# Markdown: $...$ and $$...$$ (label) for mathematics. Labeled equations are numbered in order of appearance.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Docstrings: a `name` in them becomes a link where it resolves.
default_role = "py:obj"
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False  # the template lists the methods, without those that BaseEstimator gives to all
autosummary_context = {
    "hidden": [
        "count",
        "get_metadata_routing",
        "get_params",
        "index",
        "set_output",
        "set_decision_function_request",
        "set_fit_request",
        "set_params",
        "set_score_request",
    ],
}

# Examples run when the pages are built (-D plot_gallery=0: they are shown only); tests/test_examples.py runs them, too.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "pydata_sphinx_theme"
html_title = f"fairl_sk {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_context = {
    "api_tasks": [
        ("learn-a-reward", "Learn a reward"),
        ("choose-parameters", "Choose parameters"),
        ("features", "Features"),
        ("data", "Data"),
        ("measure", "Measure"),
        ("diagnose", "Diagnose"),
        ("export-to-trl", "Export to TRL"),
        ("audit", "Audit"),
        ("extend-detectors-and-schedules", "Extend: detectors and schedules"),
    ],
}
html_sidebars = {page.stem: [] for page in Path(__file__).parent.glob("*.md")}
html_sidebars |= {"examples/*": []}
html_sidebars |= {"api": ["api_tasks.html"], "generated/*": ["api_tasks.html"]}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "api": []},
    "show_prev_next": False,
}
toc_object_entries_show_parents = "hide"
html_math_renderer = "mathml"


def to_mathml(node, **options):
    """Translate the LaTeX of a formula; what cannot be translated is a warning at its line."""
    latex = re.sub(r"\\dots\b", r"\\ldots", node.astext())
    latex = re.sub(r"(\\[td]?frac)(\w)(\w)", r"\1{\2}{\3}", latex)  # the translator reads \frac12 as \frac{12}
    try:
        mathml = tex2mathml(latex, **options)
    except MathError as error:
        logger.warning("%s in %s", error, latex, location=node)
        return latex
    return re.sub("<mo((?: class[^>]*)?)>‖</mo>", r'<mo\1 stretchy="false">‖</mo>', mathml)  # bars of a norm stay low


def inline_math(translator, node):
    """Write a formula of a sentence as MathML, which browsers show without a script."""
    translator.body.append(f'<span class="math">{to_mathml(node)}</span>')
    raise nodes.SkipNode


def block_math(translator, node):
    """Write a formula of its own, with its number and the link to it."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f'<div class="formula">{to_mathml(node, as_block=True)}</div></div>\n')
    raise nodes.SkipNode


def setup(app):
    """Register MathML as the way to render mathematics."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline_math, None), block_renderers=(block_math, None))
