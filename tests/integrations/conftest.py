"""
Hosts with other packages, each with settings of its own: ``tox -e hosts`` runs one after another.

``python -m pytest --ds=tests.integrations.oscar.settings tests/integrations`` runs one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from affiliations.models import Partner, Visitor
from tests.integrations.settings import IGNORED_WARNINGS

HOST = os.environ["DJANGO_SETTINGS_MODULE"].split(".")[-2]

collect_ignore = [
    path for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name != HOST
]
if HOST not in ("grappelli", "jazzmin", "unfold"):
    collect_ignore.append("test_themes.py")


def pytest_configure(config: pytest.Config) -> None:
    for line in IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def shown(django_db_setup: None, django_db_blocker: Any) -> dict[str, Any]:
    """Fill the shop once and leave it so: the database ends with the run."""
    from tests.integrations.pages import furnish

    with django_db_blocker.unblock():
        return furnish()


@pytest.fixture
def follow_link(client: Client, partner: Partner) -> Callable[..., Visitor]:
    """Return what lets a browser follow the partner's link."""

    def follow(browser: Client = client) -> Visitor:
        browser.get("/", {"affiliate_id": partner.uid})
        return Visitor.objects.get(partner=partner)

    return follow
