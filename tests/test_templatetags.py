from __future__ import annotations

import pytest
from django.http import HttpRequest
from django.template import Context, Template
from django.test import RequestFactory

from affiliations.models import Partner


@pytest.fixture
def partner() -> Partner:
    return Partner(uid="moox6esi", name="A partner")


def render(source: str, **context: object) -> str:
    return Template("{% load affiliations %}" + source).render(Context(context))


def request_to_the_shop() -> HttpRequest:
    return RequestFactory().get("/partners/", HTTP_HOST="www.shop.example", secure=True)


def test_a_partner_reads_a_link_that_works_from_anywhere(partner: Partner) -> None:
    written = render(
        '{% tracking_link partner "/path/" click_id="42" %}',
        partner=partner,
        request=request_to_the_shop(),
    )

    assert written == ("https://www.shop.example/path/?affiliate_id=moox6esi&amp;click_id=42")


def test_without_a_request_the_link_is_the_path(partner: Partner) -> None:
    assert render('{% tracking_link partner "/path/" %}', partner=partner) == (
        "/path/?affiliate_id=moox6esi"
    )


def test_a_link_without_a_page_leads_to_the_front_page(partner: Partner) -> None:
    written = render("{% tracking_link partner %}", partner=partner, request=request_to_the_shop())

    assert written == "https://www.shop.example/?affiliate_id=moox6esi"


def test_a_link_can_be_kept_in_a_variable_and_has_all_its_ids(partner: Partner) -> None:
    written = render(
        "{% tracking_link partner url click_id=click sub1='mail' sub5='top' as link %}"
        "{{ link|safe }}",
        partner=partner,
        url="/path/?x=1#part",
        click=42,
    )

    assert written == ("/path/?x=1&affiliate_id=moox6esi&click_id=42&sub1=mail&sub5=top#part")


def test_what_a_link_is_made_of_cannot_become_markup(partner: Partner) -> None:
    written = render(
        "{% tracking_link partner url click_id=click %}",
        partner=partner,
        url="/?x=<script>",
        click="<script>\"'",
    )

    assert "<script>" not in written
    assert written.endswith("click_id=%3Cscript%3E%22%27")


def test_a_link_to_another_site_is_left_there(partner: Partner) -> None:
    written = render(
        '{% tracking_link partner "https://eu.shop.example/" %}',
        partner=partner,
        request=request_to_the_shop(),
    )

    assert written == "https://eu.shop.example/?affiliate_id=moox6esi"


def test_an_id_that_would_be_lost_is_an_error(partner: Partner) -> None:
    with pytest.raises(TypeError, match="sub6"):
        render('{% tracking_link partner sub6="x" %}', partner=partner)
