"""What Sphinx builds the pages by: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

import gpukmeans

project = "gpukmeans"
copyright = "2026, the gpukmeans developers"
version = release = gpukmeans.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "gallery/*.ipynb", "gallery/*.py"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

html_theme = "pydata_sphinx_theme"
html_title = "gpukmeans"
html_theme_options = {
    "header_links_before_dropdown": 4,
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Nothing is below these pages: beside them there would be the heading of an empty list.
html_sidebars = {page.stem: [] for page in Path(__file__).parent.glob("*.md")}
toc_object_entries_show_parents = "hide"
html_show_sourcelink = False

autosummary_generate = True
autodoc_typehints = "none"  # docstrings say more: shapes and dtypes
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": False,
    "abort_on_example_error": True,
}

# Programs that have become pages of the gallery; and what is not part of the site, which a checkout has.
_EXAMPLE = re.compile(r"\]\(\.\./examples/gallery/(\w+)\.py\)")
_ELSEWHERE = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s]+)\)")


def _name_files(app: object, name: str, source: list[str]) -> None:
    """Links to files beside docs/ lead nowhere from here: to a page of the gallery, or name the file in their place."""
    source[0] = _EXAMPLE.sub(r"](gallery/\1.rst)", source[0])
    source[0] = _ELSEWHERE.sub(lambda link: f"{link[1]} (`{link[2].partition('#')[0]}` in a checkout)", source[0])


def setup(app: object) -> None:
    app.connect("source-read", _name_files)
