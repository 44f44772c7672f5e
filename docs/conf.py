"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build``, with no network."""

import fairl_sk

project = "fairl_sk"
author = "The fairl_sk developers"
version = release = fairl_sk.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

# Markdown: $...$ and $$...$$ (label) for mathematics. Labelled equations are numbered in order of appearance.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
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
        "set_decision_function_request",
        "set_fit_request",
        "set_params",
        "set_score_request",
    ],
}

html_theme = "pydata_sphinx_theme"
html_title = f"fairl_sk {release}"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "secondary_sidebar_items": ["page-toc"]}
