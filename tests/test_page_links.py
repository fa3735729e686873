"""The private link of a partner's own page, in the Admin."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client, override_settings
from django.urls import path

from affiliations.models import Partner
from tests.factories import UserFactory
from tests.urls import urlpatterns as usual_urlpatterns

pytestmark = pytest.mark.django_db

urlpatterns = [usual_urlpatterns[0], path("", usual_urlpatterns[2].callback)]


def staff(*permissions: str) -> Client:
    user = UserFactory(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def desk() -> Client:
    return staff("change_partner")


def address(partner: Partner) -> str:
    return f"/admin/affiliations/partner/{partner.pk}/page_link/"


def link(response: Any) -> str | None:
    """Return the link that a page shows."""
    assert response.status_code == 200
    found = re.search(r'id="aff-page-link"[^>]*\svalue="([^"]*)"', response.content.decode())
    return found and found[1]


def log(partner: Partner) -> list[str]:
    entries = LogEntry.objects.filter(object_id=str(partner.pk)).order_by("pk")
    return [entry.get_change_message() for entry in entries]


def test_staff_make_a_link_and_whoever_has_it_sees_the_page(
    desk: Client, client: Client, partner: Partner
) -> None:
    assert "Create link" in desk.get(address(partner)).content.decode()
    made = link(desk.post(address(partner), {"create": ""}))
    assert made is not None
    assert made.startswith("http://testserver/partner/")
    assert client.get(made).status_code == 200
    assert log(partner) == ["Created a link to the partner page."]


def test_the_link_is_shown_only_when_asked_for_and_that_is_written_down(
    desk: Client, partner: Partner
) -> None:
    partner.replace_page_link()
    assert link(desk.get(address(partner))) is None
    assert link(desk.post(address(partner), {"show": ""})) == (
        f"http://testserver{partner.page_link()}"
    )
    assert log(partner) == ["Viewed the link to the partner page."]


def test_a_replaced_link_opens_nothing(desk: Client, client: Client, partner: Partner) -> None:
    partner.replace_page_link()
    old = partner.page_link()
    response = desk.post(address(partner), {"replace": ""})
    new = link(response)
    assert "The old link no longer works." in response.content.decode()
    assert new is not None
    assert [client.get(old).status_code, client.get(new).status_code] == [404, 200]
    assert log(partner) == ["Replaced the link to the partner page."]


def test_a_revoked_link_opens_nothing(desk: Client, client: Client, partner: Partner) -> None:
    partner.replace_page_link()
    old = partner.page_link()
    response = desk.post(address(partner), {"revoke": ""}, follow=True)
    assert "Revoked the link to the partner page." in response.content.decode()
    assert client.get(old).status_code == 404
    assert log(partner) == ["Revoked the link to the partner page."]


def test_who_would_make_one_is_shown_what_somebody_else_has_just_made(
    desk: Client, partner: Partner
) -> None:
    partner.replace_page_link()
    kept = partner.page_link()
    assert link(desk.post(address(partner), {"create": ""})) == f"http://testserver{kept}"


def test_there_is_nothing_to_show_of_what_somebody_else_has_just_revoked(
    desk: Client, partner: Partner
) -> None:
    response = desk.post(address(partner), {"show": ""})
    assert link(response) is None
    assert "SECRET_KEY" not in response.content.decode()


def test_a_link_of_a_secret_key_that_is_gone_cannot_be_shown_and_works(
    desk: Client, client: Client, partner: Partner
) -> None:
    partner.replace_page_link()
    old = partner.page_link()
    with override_settings(SECRET_KEY="another"):
        # The session went with the key.
        response = staff("change_partner").post(address(partner), {"show": ""})
        assert link(response) is None
        assert "cannot be shown" in response.content.decode()
        assert client.get(old).status_code == 200


@pytest.mark.parametrize("button", ["create", "show", "replace", "revoke"])
def test_who_may_only_look_sees_no_button_and_gets_nowhere(partner: Partner, button: str) -> None:
    partner.replace_page_link()
    key = partner.page_key
    viewer = staff("view_partner")
    change = f"/admin/affiliations/partner/{partner.pk}/change/"
    assert "page_link/" not in viewer.get(change).content.decode()
    assert viewer.get(address(partner)).status_code == 403
    assert viewer.post(address(partner), {button: ""}).status_code == 403
    partner.refresh_from_db()
    assert partner.page_key == key
    assert log(partner) == []


def test_the_button_is_on_the_page_of_the_partner(desk: Client, partner: Partner) -> None:
    shown = desk.get(f"/admin/affiliations/partner/{partner.pk}/change/").content.decode()
    assert "page_link/" in shown


@pytest.mark.urls(__name__)
def test_a_site_without_such_pages_has_no_button(desk: Client, partner: Partner) -> None:
    shown = desk.get(f"/admin/affiliations/partner/{partner.pk}/change/").content.decode()
    assert "page_link/" not in shown
    assert desk.get(address(partner)).status_code == 404
