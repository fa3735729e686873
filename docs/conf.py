from __future__ import annotations

import os
import sys
from importlib.metadata import metadata
from pathlib import Path

import django

# The modules that autodoc reads need a Django that is set up; the tests have one.
sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent / "extension")]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

_metadata = metadata("django-affiliate-tracking")

project = _metadata["Name"]
author = _metadata["Author"]
project_copyright = "Saxo Publish and individual contributors"
release = version = _metadata["Version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
# The headings have the names of the modules.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
exclude_patterns = ["_build", "extension"]

# What Python and Django document cannot be looked up without a network.
nitpick_ignore_regex = [
    ("py:class", r"(collections|datetime|decimal|django)\..+"),
    # Where a module imports them for type checking only, or a docstring names them.
    ("py:class", r"AbstractBaseUser|AsyncClient|Client|(.+\.)?CutOff|Decimal|HttpRequest|datetime"),
    ("py:exc", "DatabaseError|ValidationError"),
]
# Its docstring says what deliver() returns: to import the class would load what sends.
nitpick_ignore = [("py:class", "Summary")]

html_theme = "furo"
html_domain_indices = False
html_title = f"{project} {release}"
templates_path = ["_templates"]
html_additional_pages = {"contents": "contents.html"}
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["affiliations.css"]

# `sphinx-build -b linkcheck` opens each external link. It needs a network, so tox does not run it.
linkcheck_ignore = [r"https://(www\.yourpartner\.com|[\w.-]+\.example|www\.example\.com)/?"]
