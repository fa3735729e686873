"""What hosts import: documented names, which load nothing that is not needed yet."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent

SUBPACKAGES = [
    "affiliations.callbacks",
    "affiliations.conversions",
    "affiliations.reports",
    "affiliations.tracking",
]
MODULES = [
    "affiliations.conf",
    "affiliations.dispatchers",
    "affiliations.exceptions",
    "affiliations.links",
    "affiliations.middleware",
    "affiliations.models",
    "affiliations.privacy",
    "affiliations.signals",
    "affiliations.testing",
    "affiliations.timeline",
    "affiliations.triggers",
    "affiliations.urls",
]

each_subpackage = pytest.mark.parametrize("name", SUBPACKAGES)


@each_subpackage
def test_every_name_that_a_subpackage_exports_is_there(name: str) -> None:
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    # A module of that name would be found in its place once it was imported.
    assert not [name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)]
    for exported in package.__all__:
        with pytest.raises(ImportError):
            import_module(f"{name}.{exported}")


@each_subpackage
def test_a_subpackage_exports_nothing_else(name: str) -> None:
    package = import_module(name)
    ours = {
        exported
        for exported in set(dir(package)) - {"lazy_exports"}
        if getattr(getattr(package, exported), "__module__", "").startswith("affiliations")
    }
    assert ours - {"__getattr__", "__dir__"} == set(package.__all__)


@each_subpackage
def test_a_name_that_is_not_exported_is_missing_as_in_any_module(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        import_module(name).nothing  # noqa: B018 -- it raises


@pytest.mark.server
def test_public_names_load_nothing_that_sends() -> None:
    """A web process imports them: requests alone would take a fraction of a second."""
    script = f"""
import sys
from importlib import import_module

for package in {SUBPACKAGES}:
    import_module(package)
early = "affiliations.models", "django.apps"
assert not set(early) & set(sys.modules), "imported before Django is set up"

import django
django.setup()
for package in {SUBPACKAGES}:
    for name in import_module(package).__all__:
        exec(f"from {{package}} import {{name}}")
for module in {MODULES}:
    import_module(module)
slow = "requests", "urllib3", "celery", "django_tasks", "affiliations.callbacks.transport"
from django.conf import settings
# An app of the host that stores tasks loads what Django 5.2 lacks.
of_host = {{"django_tasks"}} if "django_tasks_db" in settings.INSTALLED_APPS else set()
loaded = [name for name in slow if name in sys.modules and name not in of_host]
assert not loaded, loaded
"""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
