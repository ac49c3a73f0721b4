"""How Sphinx makes the site of these pages: `make docs`, then open build/docs/README.html."""

import re

import geoseg

project, author, release = "geoseg", "the geoseg authors", geoseg.__version__
copyright = "the geoseg authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
exclude_patterns = ["*.py"]
html_theme = "furo"
html_title = f"geoseg {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2e6b34", "color-brand-content": "#2e6b34"},
    "dark_css_variables": {"color-brand-primary": "#8fce95", "color-brand-content": "#8fce95"},
}
html_favicon = "icon.svg"
html_show_sourcelink = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"  # what stands between single backticks in a docstring
maximum_signature_line_length = 80


def _add_contents(app, page, source):
    """Make the lists of the start page the contents of the site, where each heading is a part of them."""
    if page != root_doc:
        return
    parts = re.findall(r"^(\w[^\n]*):\n\n((?:- \[.*\n(?:  .*\n)*)+)", source[0], re.MULTILINE)
    for caption, entries in parts:
        pages = "\n".join(re.findall(r"^- \[[^\]]*\]\(([\w-]+)\.(?:md|rst)\)", entries, re.MULTILINE))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def setup(app):
    app.connect("source-read", _add_contents)
