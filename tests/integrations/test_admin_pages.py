"""Every page of ours in the Admin of the host, as a superuser opens it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from tests.integrations.pages import (
    ADMINS,
    LISTS,
    Page,
    address,
    addresses,
    pages,
    questions,
)

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("model", "page"), addresses())
def test_a_page_opens(staff: Client, shown: dict[str, Any], model: str, page: str) -> None:
    answer = staff.get(address(shown, model, page), follow=True)
    asked: Any = {
        "add": ADMINS[model].has_add_permission,
        "delete": ADMINS[model].has_delete_permission,
    }.get(page)
    is_there = asked is None or asked(answer.wsgi_request)
    assert answer.status_code == (200 if is_there else 403)


def test_the_pages_open_in_each_state_of_a_row(staff: Client, shown: dict[str, Any]) -> None:
    statuses = {
        name: staff.get(path, follow=True).status_code
        for name, path in pages(shown)
        if not name.endswith("-list")
    }
    assert len(statuses) > 30
    assert {name for name, status in statuses.items() if status != 200} == set()


@pytest.mark.parametrize("model", LISTS)
def test_a_list_can_be_searched(staff: Client, shown: dict[str, Any], model: str) -> None:
    answer = staff.get(address(shown, model, "changelist"), {"q": "1001"})
    assert answer.status_code == 200


@pytest.mark.parametrize("model", LISTS)
def test_no_form_of_a_list_stands_inside_another(
    staff: Client, shown: dict[str, Any], model: str
) -> None:
    page = Page(staff.get(address(shown, model, "changelist")).text)
    assert page.nested_forms == []


@pytest.mark.parametrize(("model", "action"), [*questions()])
def test_an_action_of_a_list_asks_first(
    staff: Client, shown: dict[str, Any], model: str, action: str
) -> None:
    rows = ADMINS[model].model._default_manager.values_list("pk", flat=True)
    answer = staff.post(
        address(shown, model, "changelist"), {"action": action, "_selected_action": list(rows)}
    )
    assert answer.status_code == 200
    assert 'name="confirmed"' in answer.text


@pytest.mark.parametrize("element", ["aff-badge", "aff-note"])
def test_the_host_defines_the_colours_of_ours(
    staff: Client, shown: dict[str, Any], element: str
) -> None:
    page = Page(staff.get(address(shown, "conversion", "approve")).text)
    ours = Path(finders.find("affiliations/admin.css")).read_text(encoding="utf-8")
    rules = re.findall(rf"\.{element}\b[^{{}}]*{{([^}}]*)}}", ours)
    # Those that name no other colour behind a comma.
    colours = {colour for rule in rules for colour in re.findall(r"var\((--[\w-]+)\)", rule)}
    assert colours
    assert colours - set(re.findall(r"(--[\w-]+)\s*:", page.styles)) == set()
