"""The documentation site: `make docs` writes it to build/docs.

Nothing is read from other servers, neither while the site is built nor by its pages.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
import sources

import zoo_exp

project = "zoo_exp"
author = "the zoo_exp contributors"
copyright = "the zoo_exp contributors, Apache-2.0"
version = release = zoo_exp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "mathml"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples", "_ext"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = f"zoo_exp {release}"
html_static_path = ["_static"]
html_css_files = ["zoo.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

toc_object_entries = False  # thousands of entries in the contents of every page
python_maximum_signature_line_length = 88
highlight_language = "sh"  # indented blocks are command lines
default_role = "literal"  # docstrings write `name` for code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Class attributes", "Attributes")]
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

nitpicky = True
# Types of other libraries, whose documentation is on other servers, and type variables.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|pd|pandas|np|numpy|PIL|Image|transformers|lightning|collections|pathlib|typing|nn)(\..*)?",
    ),
    (r"py:.*", r"(contextlib|datetime|enum|jinja2|markupsafe|rich|types)\..*"),
    (r"py:.*", r"(Tensor|Generator|Device|PreTrainedModel|Path|DataFrame|Series|Module|ndarray)"),
    (r"py:.*", r"(zoo_exp\..*\.)?([A-Z]|Kind|OneOf|SelectorType|TaskType)"),
    (r"py:.*", r"(dict|list|tuple)\[.*"),
]


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Prepare the source of a page."""
    source[0] = sources.prepared(source[0], f"{docname}.md")


def setup(app: Sphinx) -> None:
    """Connect what this site adds to Sphinx."""
    sources.write_studies()
    app.connect("source-read", read)
