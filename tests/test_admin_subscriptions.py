"""Subscriptions: the callback URL while it is written, and whether it works."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from affiliations.admin.callback_urls import EXPLANATIONS, CallbackURLInput, preview
from affiliations.admin.subscriptions import SubscriptionInline
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
from affiliations.placeholders import NAMES
from tests.factories import CallbackFactory, SubscriptionFactory
from tests.raw_partner import OK, RawPartner
from tests.test_admin import allowed, shown, url
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db

PREVIEW = "/admin/affiliations/subscription/preview/"
NOT_FOUND = b"HTTP/1.1 404 No\r\nContent-Length: 12\r\n\r\n<b>none</b>!"


class TestTheCallbackURL:
    def test_has_each_placeholder_explained_beside_it(self, staff: Client) -> None:
        assert tuple(EXPLANATIONS) == NAMES
        subscription = SubscriptionFactory()
        for row in (subscription, subscription.partner):
            page = staff.get(url(row)).text
            for name, explanation in EXPLANATIONS.items():
                assert f'<code data-placeholder="{{{name}}}">' in page
                assert str(explanation) in page

    def test_is_shown_with_sample_values(self, staff: Client) -> None:
        subscription = SubscriptionFactory(
            callback_url="https://partner.example/?c={click_id}&o={reference}&p={payout}"
        )
        rendered = "https://partner.example/?c=test-click&o=test-order&p=10.00"
        assert f'<code class="aff-rendered">{rendered}</code>' in unescape(
            staff.get(url(subscription)).text
        )
        query = {"url": subscription.callback_url, "trigger": "Order placed"}
        assert staff.get(PREVIEW, query).json() == {"rendered": rendered, "mistakes": []}

    @pytest.mark.parametrize(
        ("typed", "mistake"),
        [
            ("https://partner.example/?c={clickid}&v={visitor_id}", "Did you mean {click_id}?"),
            ("https://partner.example/?c=[cid]", "another system’s macro"),
            ("https://partner.example/", "Put {visitor_id} or {click_id} in it"),
            ("nonsense {visitor_id}", "Enter a valid URL."),
            ("https://partner.example/" + "x" * 2048 + "{visitor_id}", "at most 2048 characters"),
            ("https://[{visitor_id}", "valid URL"),
        ],
    )
    def test_says_what_is_meant_while_it_is_typed(
        self, typed: str, mistake: str, staff: Client
    ) -> None:
        answer = staff.get(PREVIEW, {"url": typed}).json()
        assert answer["rendered"] == ""
        assert mistake in " ".join(answer["mistakes"])

    @pytest.mark.parametrize("typed", ["", "\0", "\u202e{visitor_id}", "💥", "{" * 3000])
    def test_is_never_a_failure_of_the_site(self, typed: str, staff: Client) -> None:
        assert staff.get(PREVIEW, {"url": typed, "trigger": typed}).status_code == 200

    def test_needs_a_permission_to_look(self) -> None:
        assert allowed("view_partner").get(PREVIEW).status_code == 403
        assert allowed("view_subscription").get(PREVIEW).status_code == 200

    def test_has_no_live_preview_where_a_site_has_no_subscriptions(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("affiliations.admin.callback_urls.reverse", _nothing_there)
        inline = SubscriptionInline(Partner, AdminSite("own"))
        request = RequestFactory().get("/")
        field = Subscription._meta.get_field("callback_url")
        widget = inline.formfield_for_dbfield(field, request).widget
        assert isinstance(widget, CallbackURLInput)
        assert widget.preview_url == ""

    def test_shows_the_trigger_that_is_chosen(self) -> None:
        url = "https://partner.example/?v={visitor_id}&t={trigger}&u={partner_uid}"
        rendered, _ = preview(url, "User registered", "moox6esi")
        assert rendered == "https://partner.example/?v=0&t=User%20registered&u=moox6esi"

    def test_a_payout_is_shown_without_needless_zeros(self, staff: Client) -> None:
        subscription = SubscriptionFactory(
            payout_type="fixed", payout_value="2.5000", payout_currency="EUR"
        )
        assert re.search('name="payout_value" value="2.5"', staff.get(url(subscription)).text)


def _nothing_there(*args: Any, **kwargs: Any) -> str:
    from django.urls import NoReverseMatch

    raise NoReverseMatch


class TestATestCallback:
    @pytest.fixture(autouse=True)
    def _this_machine(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True

    def test_shows_what_was_sent_and_what_came_back(self, staff: Client) -> None:
        with RawPartner(OK) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.post(url(subscription, "send_test"), follow=True)
            assert len(server.requests) == 1
        text = shown(page)
        assert "A test callback was sent." in text
        assert f"What was sent: GET {server.url}?v=0" in text
        assert "taken HTTP 200." in text
        assert "What came back: ok" in text
        assert said(subscription) == ["A test callback was sent."]

    def test_shows_the_answer_of_a_broken_partner_harmlessly(self, staff: Client) -> None:
        with RawPartner(NOT_FOUND) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.post(url(subscription, "send_test"), follow=True)
        assert "not taken" in shown(page)
        assert "HTTP 404" in shown(page)
        assert "<b>none</b>" not in page.text
        assert "&lt;b&gt;none&lt;/b&gt;!" in page.text

    def test_is_not_sent_by_looking(self, staff: Client) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.get(url(subscription, "send_test"))
            assert server.requests == []
        assert f"What is sent: GET {server.url}?v=0" in shown(page)

    def test_is_not_sent_to_what_is_no_callback_url(self, staff: Client) -> None:
        """As 0.12 could leave one."""
        subscription = SubscriptionFactory()
        for bad, mistake in (("https://x.example/?c={clickid}", "Did you mean"), ("", "nobody is")):
            Subscription.objects.update(callback_url=bad)
            for page in (
                staff.get(url(subscription, "send_test")),
                staff.post(url(subscription, "send_test")),
            ):
                assert mistake in shown(page)
        assert not Callback.objects.exists()
        assert said(subscription) == []

    def test_is_not_sent_where_the_url_could_not_be_called_any_more(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription = SubscriptionFactory()
        monkeypatch.setattr(
            "affiliations.admin.subscriptions.preview", lambda *args: ("https://x", [])
        )
        Subscription.objects.update(callback_url="http://")
        page = staff.post(url(subscription, "send_test"))
        assert "Put {visitor_id} or {click_id} in it" in shown(page)

    def test_is_offered_where_there_is_somebody_to_call(self, staff: Client) -> None:
        with_url, without = SubscriptionFactory(), SubscriptionFactory(callback_url="")
        assert url(with_url, "send_test") in staff.get(url(with_url)).text
        assert url(without, "send_test") not in staff.get(url(without)).text


class TestASuspendedSubscription:
    def test_is_resumed_and_what_was_held_goes_out(self, staff: Client) -> None:
        callback = CallbackFactory(status="held")
        Subscription.objects.update(
            failure_count=10, failing_since=timezone.now(), callbacks_suspended_on=timezone.now()
        )
        subscription = callback.subscription
        resume = url(subscription, "resume")
        assert "Ask the partner" in shown(staff.get(resume))
        callback.refresh_from_db()
        assert callback.status == "held"
        page = staff.post(resume, follow=True)
        assert "1 was held, and goes out now." in shown(page)
        callback.refresh_from_db()
        subscription.refresh_from_db()
        assert (callback.status, subscription.callbacks_suspended_on) == ("queued", None)
        assert said(subscription) == ["Callbacks are resumed. 1 was held, and goes out now."]
        assert "are not suspended" in shown(staff.get(resume))

    def test_is_seen_in_the_list(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        listed = url(Subscription)
        assert "well" in shown(staff.get(listed))
        Subscription.objects.update(failure_count=2)
        assert "2 failures" in shown(staff.get(listed))
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        assert "suspended" in shown(staff.get(listed))
        Subscription.objects.update(callbacks_suspended_on=None, failure_count=0, callback_url="")
        assert "well" not in shown(staff.get(listed))
        assert subscription.trigger in shown(staff.get(listed))

    def test_does_not_offer_to_resume_what_is_not_suspended(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        assert url(subscription, "resume") not in staff.get(url(subscription)).text


def test_a_subscription_stays_with_its_partner(staff: Client) -> None:
    subscription = SubscriptionFactory()
    page = staff.get(url(subscription)).text
    assert 'name="partner"' not in page
    assert reverse("admin:affiliations_partner_change", args=[subscription.partner_id]) in page
    assert 'name="partner"' in staff.get(url(Subscription, "add")).text


def test_the_last_callbacks_of_a_subscription_are_on_its_page(staff: Client) -> None:
    callback = CallbackFactory()
    CallbackAttempt.objects.create(
        callback=callback, number=1, started_on=timezone.now(), duration_ms=1, status_code=204
    )
    page = staff.get(url(callback.subscription))
    assert "taken (HTTP 204)" in shown(page)
    assert url(callback) in page.text
