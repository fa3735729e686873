from __future__ import annotations

import ast
import sys
from importlib.metadata import distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent

#: Modules that only the dispatcher imports which needs them, and that need not be installed.
EXTRAS = {"celery", "django_tasks"}


def imported() -> set[str]:
    """Name the distributions that the package imports, beside Python's own modules."""
    modules = set()
    for path in (ROOT / "affiliations").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
    tops = {module.partition(".")[0] for module in modules} - {"affiliations", *EXTRAS}
    # packages_distributions() of Python 3.10 misses those that name no top level.
    whose = {}
    for distribution in distributions():
        name = distribution.metadata["Name"].lower()  # read anew each time that it is asked for
        for file in distribution.files or ():
            whose[file.parts[0].removesuffix(".py")] = name
    return {whose[top] for top in tops - sys.stdlib_module_names}


def required() -> dict[str, str]:
    """Map the names of the dependencies, without those of the extras, to their versions."""
    requirements = map(Requirement, requires("django-affiliate-tracking") or ())
    return {
        requirement.name.lower(): str(requirement.specifier)
        for requirement in requirements
        if requirement.marker is None
    }


def test_what_the_package_imports_is_installed_with_it_and_nothing_else() -> None:
    """(D27) 0.12 asked for ``mock``, which only its tests needed."""
    brought_by_others = {
        "asgiref",  # Django's
        "certifi",  # requests'
        "idna",  # requests'
        "urllib3",  # requests'
    }
    assert imported() - brought_by_others == set(required())
    assert "mock" not in required()


def test_werkzeug_is_new_enough_to_keep_the_requests_of_async_views_apart() -> None:
    """(D27) With Werkzeug 1 the request of django-tls is kept by thread."""
    assert required()["werkzeug"] == ">=2"


def test_the_lowest_versions_that_the_tests_run_with_are_those_that_are_allowed() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    lowest = {pin.name.lower(): str(pin.specifier).replace("==", ">=") for pin in pins}
    assert lowest == required()
