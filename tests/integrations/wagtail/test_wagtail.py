from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from wagtail.contrib.forms.models import FormSubmission
from wagtail.models import Site

from affiliations.models import Conversion, Partner, Visitor
from tests.documented import DOCS, add_shop, triggers
from tests.factories import SubscriptionFactory
from tests.integrations.wagtail.site.models import FormPage
from tests.testapp.models import Order

pytestmark = pytest.mark.django_db

PAGE = DOCS / "guides/wagtail.rst"


@pytest.fixture
def form_page() -> FormPage:
    """Publish a page with a form."""
    page = FormPage(title="Ask for a sample", slug="sample")
    Site.objects.get(is_default_site=True).root_page.add_child(instance=page)
    page.form_fields.create(label="Your address", field_type="email")
    page.save_revision().publish()
    return page


def test_a_form_that_a_visitor_sends_is_credited(
    follow_link: Callable[..., Visitor],
    partner: Partner,
    form_page: FormPage,
    client: Client,
    wire: Callable[..., None],
) -> None:
    wire(triggers(PAGE, "Form sent"))
    SubscriptionFactory(partner=partner, trigger="Form sent")
    visitor = follow_link()
    assert 'name="your_address"' in client.get(form_page.url).text
    client.post(form_page.url, {"your_address": "reader@shop.example"})
    submission = FormSubmission.objects.get()
    assert submission.get_data()["your_address"] == "reader@shop.example"
    conversion = Conversion.objects.get(partner=partner)
    assert (conversion.visitor, conversion.trigger) == (visitor, "Form sent")
    assert (conversion.user, conversion.reference) == (None, str(submission.pk))


@pytest.mark.parametrize(("slug", "counted"), [("sample", 1), ("complaint", 0)])
def test_the_receiver_of_the_page_counts_one_form(
    slug: str,
    counted: int,
    follow_link: Callable[..., Visitor],
    partner: Partner,
    form_page: FormPage,
    client: Client,
    wire: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_shop(monkeypatch, PAGE, Order)
    [(name, signal, _, *rest)] = triggers(PAGE, "Form sent")
    wire([(name, signal, "shop.forms.sample_requested", *rest)])
    SubscriptionFactory(partner=partner, trigger="Form sent")
    form_page.slug = slug
    form_page.save()
    follow_link()
    client.post(form_page.url, {"your_address": "reader@shop.example"})
    assert FormSubmission.objects.count() == 1
    assert Conversion.objects.filter(partner=partner).count() == counted


def test_a_page_of_wagtail_follows_a_link(
    partner: Partner, form_page: FormPage, client: Client
) -> None:
    answer = client.get(form_page.url, {"affiliate_id": partner.uid}, follow=True)
    assert answer.redirect_chain == [(form_page.url, 302)]
    assert 'name="your_address"' in answer.text
    assert Visitor.objects.get(partner=partner).entry_point == f"http://testserver{form_page.url}"


def test_staff_who_type_in_an_order_are_not_credited(
    follow_link: Callable[..., Visitor], partner: Partner, staff: Client
) -> None:
    SubscriptionFactory(partner=partner, trigger="Order placed")
    follow_link(staff)
    staff.post(reverse("wagtailsnippets_testapp_order:add"), {"note": "By telephone"})
    assert Order.objects.get().note == "By telephone"
    assert not Conversion.objects.filter(partner=partner).exists()
