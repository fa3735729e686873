"""The codes of partners in the Admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from affiliations.models import Partner, PartnerCode
from affiliations.triggers import complete_trigger
from tests.factories import PartnerCodeFactory, PartnerFactory, SubscriptionFactory, VisitorFactory
from tests.test_admin import allowed, partner_form, shown, url

pytestmark = pytest.mark.django_db


def codes_form(partner: Partner, *codes: dict[str, Any]) -> dict[str, Any]:
    """Fill in the page of a partner with codes; what has an ``id`` is there already."""
    data = partner_form(name=partner.name)
    data["codes-TOTAL_FORMS"] = len(codes)
    data["codes-INITIAL_FORMS"] = sum("id" in code for code in codes)
    for number, code in enumerate(codes):
        data |= {f"codes-{number}-{name}": value for name, value in code.items()}
    return data


def said(client: Client, partner: Partner, *codes: dict[str, Any]) -> str:
    return shown(client.post(url(partner, "deal"), codes_form(partner, *codes), follow=True))


def keys(partner: Partner) -> list[tuple[str, bool]]:
    return list(partner.codes.order_by("pk").values_list("code", "active"))


def test_codes_are_added_changed_and_removed_on_the_page_of_the_partner(staff: Client) -> None:
    partner = PartnerFactory()
    page = said(staff, partner, {"code": " SteepNotes ", "active": "on"}, {"code": "old-42"})
    assert "Added partner code “SteepNotes”." in shown(staff.get(url(partner, "history")))
    assert keys(partner) == [("SteepNotes", True), ("old-42", False)]
    assert "changed successfully" in page
    first, second = partner.codes.order_by("pk")
    said(
        staff,
        partner,
        {"id": first.pk, "partner": partner.pk, "code": "NewNotes", "active": "on"},
        {"id": second.pk, "partner": partner.pk, "code": "old-42", "DELETE": "on"},
    )
    assert keys(partner) == [("NewNotes", True)]
    assert PartnerCode.objects.of_texts("newnotes") == [first]
    history = shown(staff.get(url(partner, "history")))
    assert "Code from SteepNotes to NewNotes for partner code “NewNotes”" in history


@pytest.mark.parametrize("text", ["SteepNotes", "STEEPNOTES", " steepnotes "])
def test_a_code_of_another_partner_is_refused(staff: Client, text: str) -> None:
    other, partner = PartnerCodeFactory(code="SteepNotes").partner, PartnerFactory()
    page = said(staff, partner, {"code": text})
    assert f"SteepNotes is already a code of {other}. Choose another one." in page
    assert keys(partner) == []


@pytest.mark.parametrize("text", ["moox6esi", "MOOX6ESI"])
def test_the_uid_of_a_partner_is_refused(staff: Client, text: str) -> None:
    owner, partner = PartnerFactory(uid="moox6esi"), PartnerFactory()
    assert f"{text} is the uid of {owner}. Choose another code." in said(
        staff, partner, {"code": text}
    )
    assert keys(partner) == []


@pytest.mark.parametrize(
    "text", ["ab", "a b c", "x" * 41, "\0abc", "été-2026", "-abc", "abc\ud800"]
)
def test_what_cannot_be_a_code_is_refused(staff: Client, text: str) -> None:
    partner = PartnerFactory()
    page = said(staff, partner, {"code": text.encode(errors="replace").decode()})
    assert "changed successfully" not in page
    assert keys(partner) == []


def test_a_code_that_is_entered_twice_is_refused(staff: Client) -> None:
    partner = PartnerFactory()
    page = said(staff, partner, {"code": "SteepNotes"}, {"code": "steepnotes"}, {"code": ""})
    assert "This code is entered twice. Upper and lower case do not matter." in page
    assert keys(partner) == []


def test_a_code_that_is_removed_and_entered_again_is_said_to_be_there(staff: Client) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    page = said(
        staff,
        code.partner,
        {"id": code.pk, "partner": code.partner_id, "code": code.code, "DELETE": "on"},
        {"code": "steepnotes"},
    )
    assert "SteepNotes is already a code of" in page
    assert keys(code.partner) == [("SteepNotes", True)]


def test_a_code_that_another_user_adds_at_the_same_moment_is_no_error(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner = PartnerFactory(name="Before")
    PartnerCodeFactory(code="SteepNotes")
    monkeypatch.setattr(PartnerCode, "_mistake", lambda self: "")
    page = shown(
        staff.post(
            url(partner, "deal"),
            codes_form(partner, {"code": "steepnotes"}) | {"name": "After"},
            follow=True,
        )
    )
    assert "Nothing was saved, because another user made a change at the same moment." in page
    assert Partner.objects.get(pk=partner.pk).name == "Before"


def test_a_change_of_another_user_is_not_overwritten(staff: Client) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    form = codes_form(
        code.partner,
        {"id": code.pk, "partner": code.partner_id, "active": "on", "code": "Mine-1"},
    )
    form |= {"initial-codes-0-code": "SteepNotes", "initial-codes-0-active": "True"}
    PartnerCode.objects.update(code="Theirs-1")
    page = shown(staff.post(url(code.partner, "deal"), form))
    assert "Another user has changed “Code” to “Theirs-1”" in page
    assert keys(code.partner) == [("Theirs-1", True)]


@pytest.mark.parametrize("verb", ["view", "add", "change", ""])
def test_codes_are_for_users_with_their_permissions(verb: str) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    permissions = [f"{verb}_partnercode"] if verb else []
    client = allowed("view_partner", "change_partner", *permissions)
    form = client.get(url(code.partner, "deal")).text
    assert ('name="codes-0-code"' in form) is (verb == "change")
    assert ("SteepNotes" in form) is (verb in ("view", "change"))
    said(client, code.partner, {"code": "NewNotes"})
    assert code.partner.codes.filter(code="NewNotes").exists() is (verb == "add")
    panel = client.get(url(code.partner)).text
    assert ("?affiliate_id=SteepNotes" in panel) is (verb in ("view", "change"))


def test_the_page_of_the_partner_shows_readable_links(staff: Client) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    PartnerCodeFactory(code="gone-1", active=False, partner=code.partner)
    page = staff.get(url(code.partner)).text
    assert "<code>http://testserver/?affiliate_id=SteepNotes</code></div>" in page
    assert "<code>http://testserver/?affiliate_id=gone-1</code> (inactive)</div>" in page


def test_the_partner_sees_the_readable_links_of_active_codes(client: Client) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    PartnerCodeFactory(code="gone-1", active=False, partner=code.partner)
    code.partner.replace_page_link()
    page = client.get(code.partner.page_link()).text
    assert "http://testserver/?affiliate_id=SteepNotes" in page
    assert "gone-1" not in page


@pytest.mark.parametrize("term", ["steepnotes", "EEPNO"])
def test_a_partner_is_found_by_a_code_once(staff: Client, term: str) -> None:
    code = PartnerCodeFactory(code="SteepNotes", partner__name="Bjørn")
    PartnerCodeFactory(code="steepnotes-2", partner=code.partner)
    PartnerFactory(name="Somebody")
    response = staff.get(url(Partner), {"q": term})
    assert [row.pk for row in response.context["cl"].result_list] == [code.partner.pk]


def test_a_conversion_shows_the_code_and_whom_it_has_beaten(staff: Client) -> None:
    code = PartnerCodeFactory(code="SteepNotes")
    SubscriptionFactory(partner=code.partner)
    beaten = VisitorFactory()
    conversion = complete_trigger(None, "Order placed", visitor=beaten, code="STEEPNOTES")
    assert conversion is not None
    page = staff.get(url(conversion)).text
    assert "STEEPNOTES" in page
    assert "Credited instead of" in page
    assert url(beaten) in page
    assert "STEEPNOTES" in staff.get(url(type(conversion)) + "csv/").getvalue().decode()
    without = complete_trigger(None, "Order placed", visitor=VisitorFactory(partner=code.partner))
    assert "Credited instead of" not in staff.get(url(without)).text
