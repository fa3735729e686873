"""
The blocks of code of README.rst and docs/, and what they set, for tests that run them.

The tests of other packages, in tests/integrations, run those of the pages on these packages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from django.conf import settings as django_settings
from django.dispatch import Signal

ROOT = Path(__file__).parent.parent
README = ROOT / "README.rst"
DOCS = ROOT / "docs"

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"


class Block(NamedTuple):
    """A ``code-block`` of a page."""

    language: str
    code: str

    @property
    def file(self) -> str:
        """The file that a block of Python belongs to, from its first line."""
        match = re.match(r"# (settings\.py|shop/\w+\.py)\n", self.code)
        assert match, f"A block of Python must say which file it belongs to:\n{self.code}"
        return match[1]


def blocks(page: Path, language: str) -> list[Block]:
    found = re.finditer(
        r"^(?P<indent> *)\.\. code-block:: (?P<language>\S+)\n\n"
        r"(?P<code>(?:(?P=indent)    .*\n|\n)+)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    every = [Block(match["language"], dedent(match["code"]).strip() + "\n") for match in found]
    return [block for block in every if block.language == language]


def settings_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page, "python") if block.file == "settings.py"]


def run_settings(block: Block, kind: Callable[[Any], Any] = list) -> dict[str, Any]:
    """
    Run a block as the end of a project's settings and return what it sets.

    ``kind`` is what the project writes its apps and middleware as.
    """
    code = block.code
    for name in ("auth.User", "django.contrib.auth.models.User"):
        # The pages speak to a project with Django's own users; this one may have others.
        code = code.replace(f'"{name}"', repr(django_settings.AUTH_USER_MODEL))
    namespace: dict[str, Any] = {
        "INSTALLED_APPS": kind(
            app for app in django_settings.INSTALLED_APPS if app != "affiliations"
        ),
        "MIDDLEWARE": kind(line for line in django_settings.MIDDLEWARE if line != OURS),
    }
    exec(code, namespace)
    return {name: namespace[name] for name in re.findall(r"^([A-Z_]+) \+?= ", code, re.MULTILINE)}


def triggers(page: Path, name: str) -> list[Any]:
    """Return the triggers of the last settings on a page that have one of this name."""
    lists = [run_settings(block).get("AFFILIATE_TRIGGERS", []) for block in settings_blocks(page)]
    return [wired for wired in lists if wired and wired[0][0] == name][-1]


def add_module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Let a test import an empty module."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def add_shop(monkeypatch: pytest.MonkeyPatch, page: Path, order: type[Any]) -> ModuleType:
    """Let a test import the modules of a page, as the app ``shop`` with this model of an order."""
    package = add_module(monkeypatch, "shop")
    package.Order = order  # type: ignore[attr-defined] # "shop.Order" as a sender
    add_module(monkeypatch, "shop.models").Order = order  # type: ignore[attr-defined]
    signals = add_module(monkeypatch, "shop.signals")  # of the tutorial
    signals.order_paid, signals.order_refunded = Signal(), Signal()  # type: ignore[attr-defined]
    package.signals = signals  # type: ignore[attr-defined]
    for block in blocks(page, "python"):
        if block.file not in ("settings.py", "shop/models.py"):
            name = block.file.removesuffix(".py").replace("/", ".")
            module = add_module(monkeypatch, name)
            exec(block.code, vars(module))
            setattr(package, name.rpartition(".")[2], module)
    return package
