"""The Admin on a site of the host's own, beside the usual one and with fewer models."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import path

from affiliations.models import Partner, Visitor
from tests.factories import VisitorFactory
from tests.test_admin_hostile import PAGES, addresses, everything
from tests.test_settlements import settled
from tests.urls import urlpatterns as usual

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

own = admin.AdminSite("own")
for _model, _admin in admin.site._registry.items():
    own.register(_model, type(_admin))
#: Each with one model alone.
alone = {model: admin.AdminSite(f"alone_{model._meta.model_name}") for model in PAGES}
for _model, _site in alone.items():
    _site.register(_model, type(admin.site._registry[_model]))

urlpatterns = [
    *usual,
    path("own/", own.urls),
    *(path(f"{site.name}/", site.urls) for site in alone.values()),
]


def story() -> dict[type[Any], Any]:
    """Make one of everything, with all that leads from one to another."""
    rows = everything("x")
    visitor = rows[Visitor]
    VisitorFactory(partner=visitor.partner, previous=visitor)
    settled(partner=visitor.partner)
    return rows


def test_nothing_leads_from_one_site_to_the_other(staff: Client) -> None:
    rows = story()
    rows |= {type(one): one for one in [rows[Partner].settlements.get()]}
    for address in addresses(rows):
        page = staff.get(address.replace("/admin/", "/own/", 1), follow=True)
        assert page.status_code == 200, address
        if not page.streaming:
            assert '="/own/' in page.text, address
            assert '="/admin/' not in page.text, address


@pytest.mark.parametrize("model", PAGES)
def test_a_model_needs_no_other_on_its_site(model: Any, staff: Client) -> None:
    row = story()[model]
    its_site = f"/alone_{model._meta.model_name}/"
    for address in addresses({model: row}):
        page = staff.get(address.replace("/admin/", its_site, 1), follow=True)
        # To settle there is on the page of another.
        assert page.status_code == (403 if address.endswith("/settle/") else 200), address
        assert '="/admin/' not in page.text, address
        assert 'href=""' not in page.text, address
