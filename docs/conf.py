from __future__ import annotations

import os
import sys
from importlib.metadata import metadata
from pathlib import Path

import django

# The modules that autodoc reads need a Django that is set up; the tests have one.
sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

_metadata = metadata("django-affiliate-tracking")

project = _metadata["Name"]
author = _metadata["Author"]
project_copyright = "Saxo Publish and individual contributors"
release = version = _metadata["Version"]

extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
exclude_patterns = ["_build"]

# What other projects document cannot be looked up without a network; our own names must be found.
nitpick_ignore_regex = [("py:.*", r"(?!affiliations\.).*")]

html_theme = "alabaster"
html_theme_options = {"description": _metadata["Summary"], "fixed_sidebar": True}
