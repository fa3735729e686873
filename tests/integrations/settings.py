"""What the settings of every host begin with: those of the tests, with one database in memory."""

from __future__ import annotations

import warnings

import tests.settings
from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

DATABASES = {"default": tests.settings.default | {"TEST": {}}}
DATABASE_ROUTERS = []
# No theme of the Admin works under the policy that Chromium meets our own pages with.
MIDDLEWARE = [one for one in tests.settings.MIDDLEWARE if one != "tests.chromium.strict"]
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}

#: What the host's package does that is deprecated, as pytest's ``filterwarnings`` has it.
IGNORED_WARNINGS: list[str] = []


def before(app: str, *added: str) -> list[str]:
    """Return INSTALLED_APPS with others in front of an app, whose templates they replace."""
    position = INSTALLED_APPS.index(app)
    return [*INSTALLED_APPS[:position], *added, *INSTALLED_APPS[position:]]


def ignore_warnings(package: str, category: type[Warning]) -> None:
    """Let a package do what is deprecated, at its import and in the tests."""
    module = rf"{package}(\.|$)"
    warnings.filterwarnings("ignore", category=category, module=module)
    IGNORED_WARNINGS.append(f"ignore::{category.__module__}.{category.__qualname__}:{module}")
