"""Subscriptions: the callback URL while it is written, and whether it works."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from affiliations.admin.callback_urls import CallbackURLInput, preview
from affiliations.admin.subscription_warnings import of_subscription
from affiliations.admin.subscriptions import SubscriptionInline
from affiliations.callbacks import addresses
from affiliations.models import Callback, CallbackAttempt, Partner, Subscription
from affiliations.placeholders import PLACEHOLDERS
from tests.factories import CallbackFactory, SubscriptionFactory
from tests.raw_partner import OK, RawPartner
from tests.test_admin import allowed, shown, url
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db

PREVIEW = "/admin/affiliations/subscription/preview/"
NOT_FOUND = b"HTTP/1.1 404 No\r\nContent-Length: 12\r\n\r\n<b>none</b>!"


class TestTheCallbackURL:
    def test_has_each_placeholder_explained_beside_it(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        for address in (url(subscription), url(subscription.partner, "deal")):
            page = staff.get(address).text
            for placeholder in PLACEHOLDERS:
                assert f'<code data-placeholder="{{{placeholder.name}}}">' in page
                assert str(placeholder.explanation) in page

    def test_is_shown_with_sample_values(self, staff: Client) -> None:
        subscription = SubscriptionFactory(
            callback_url="https://partner.example/?c={click_id}&o={reference}&p={payout}"
        )
        rendered = "https://partner.example/?c=test-click&o=test-order&p=10.00"
        assert f'<code class="aff-rendered">{rendered}</code>' in unescape(
            staff.get(url(subscription)).text
        )
        query = {"url": subscription.callback_url, "trigger": "Order placed"}
        assert staff.get(PREVIEW, query).json() == {
            "rendered": rendered,
            "mistakes": [],
            "doubts": [],
            "corrections": {},
        }

    @pytest.mark.parametrize(
        ("typed", "mistake"),
        [
            ("https://partner.example/?c={clickid}&v={visitor_id}", "Did you mean {click_id}?"),
            ("https://partner.example/?c=[cid]", "Did you mean {click_id}?"),
            ("https://partner.example/", "Add {visitor_id} or {click_id}"),
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


PASTED = "https://partner.example/cb?v={visitor_id}&amp;c={clickid}"
CORRECTED = "https://partner.example/cb?v={visitor_id}&c={click_id}"


def sent(page: Any, **changed: Any) -> dict[str, Any]:
    """Return what the forms of a page send: the row's own, and those of its inlines."""
    context = page.context
    formsets = [one.formset for one in context.get("inline_admin_formsets", ())]
    forms = [context["adminform"].form, *(one.management_form for one in formsets)]
    forms += [form for one in formsets for form in one.forms]
    data = {field.html_name: field.value() for form in forms for field in form}
    data |= changed
    return {name: value for name, value in data.items() if value is not None and value is not False}


def buttons(page: Any) -> dict[str, str]:
    """Return the labels of the buttons that correct a URL, with what they send."""
    found = re.findall(r'name="_correct"\s+value="([^"]*)"\s+data-url="[^"]*">([^<]*)<', page.text)
    return {unescape(label): unescape(value) for value, label in found}


class TestAPastedURL:
    def test_is_refused_with_all_mistakes_and_a_button_for_each(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        address = url(subscription)
        page = staff.post(address, sent(staff.get(address), callback_url=PASTED))
        assert "“&amp;” is HTML. In a URL it is “&”." in shown(page)
        assert "Unknown placeholder {clickid}. Did you mean {click_id}?" in shown(page)
        assert list(buttons(page)) == [
            "Correct all",
            "Replace &amp; with &",
            "Replace {clickid} with {click_id}",
        ]
        assert '<button type="submit" hidden>' in page.text

    def test_is_corrected_by_a_button_and_not_saved(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        stored, address = subscription.callback_url, url(subscription)
        page = staff.post(address, sent(staff.get(address), callback_url=PASTED))
        for label, corrected in (
            ("Replace {clickid} with {click_id}", PASTED.replace("{clickid}", "{click_id}")),
            ("Correct all", CORRECTED),
        ):
            answer = staff.post(address, sent(page, _correct=buttons(page)[label], active="on"))
            assert answer.status_code == 200
            assert answer.context["adminform"].form["callback_url"].value() == corrected
            assert "The URL was corrected, but not saved yet." in shown(answer)
        assert buttons(answer) == {}
        assert "Please correct" not in shown(answer)
        assert Subscription.objects.get().callback_url == stored
        assert said(subscription) == []
        saved = staff.post(address, sent(answer), follow=True)
        assert "was changed successfully" in shown(saved)
        assert Subscription.objects.get().callback_url == CORRECTED

    def test_is_corrected_in_a_row_of_the_partners_page(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        name, address = "subscriptions-0-callback_url", url(subscription.partner, "deal")
        page = staff.post(address, sent(staff.get(address), **{name: PASTED}))
        answer = staff.post(address, sent(page, _correct=buttons(page)["Correct all"]))
        formset, _codes = answer.context["inline_admin_formsets"]
        assert formset.formset.forms[0]["callback_url"].value() == CORRECTED
        assert "was changed successfully" in shown(staff.post(address, sent(answer), follow=True))
        assert Subscription.objects.get().callback_url == CORRECTED

    def test_a_button_saves_nothing_else_either(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        address = url(subscription.partner, "deal")
        data = sent(
            staff.get(address),
            name="Another",
            _correct="subscriptions-0-callback_url Correct all",
            **{"subscriptions-0-DELETE": "on"},
        )
        for button in (data["_correct"], "nothing", "subscriptions-0-callback_url Nothing"):
            answer = staff.post(address, data | {"_correct": button})
            assert answer.status_code == 200
            assert "not saved yet" not in shown(answer)
        assert Partner.objects.get().name != "Another"
        assert Subscription.objects.exists()

    def test_has_its_buttons_in_the_preview(self, staff: Client) -> None:
        answer = staff.get(PREVIEW, {"url": PASTED}).json()
        assert len(answer["mistakes"]) == 2
        assert answer["corrections"]["Correct all"] == CORRECTED
        long = staff.get(PREVIEW, {"url": "https://x/" + "".join(f"{{a{n}}}" for n in range(99))})
        assert len(long.json()["corrections"]) <= 21

    def test_with_a_doubt_is_saved_with_a_warning(self, staff: Client) -> None:
        subscription = SubscriptionFactory(trigger="Order placed")
        address, pasted = url(subscription), "https://partner.example/?v={visitor_id}&p=:payout"
        text = "“p=:payout” looks like a placeholder, but is sent as it is. Did you mean {payout}?"
        preview = staff.get(PREVIEW, {"url": pasted}).json()
        assert (preview["mistakes"], preview["doubts"]) == ([], [text])
        page = staff.post(address, sent(staff.get(address), callback_url=pasted), follow=True)
        assert f"Order placed: {text}" in shown(page)
        assert Subscription.objects.get().callback_url == pasted
        page = staff.get(address)
        assert text in shown(page)
        assert list(buttons(page)) == ["Replace p=:payout with p={payout}"]

    def test_that_was_stored_earlier_stays_and_says_so(self, staff: Client) -> None:
        subscription = SubscriptionFactory(trigger="Order placed")
        Subscription.objects.update(callback_url=PASTED)
        address = url(subscription)
        page = staff.get(address)
        assert "Callbacks are still sent to this stored URL" in shown(page)
        assert "Did you mean {click_id}?" in shown(page)
        assert "Correct all" in buttons(page)
        saved = staff.post(address, sent(page, approve_after="3"), follow=True)
        assert "was changed successfully" in shown(saved)
        assert "Order placed: callbacks are still sent to the stored URL" in shown(saved)
        stored = Subscription.objects.get()
        assert (stored.callback_url, stored.approve_after) == (PASTED, 3)

    def test_that_was_stored_earlier_is_a_new_one_for_another_method(self, staff: Client) -> None:
        subscription = SubscriptionFactory(trigger="Order placed")
        Subscription.objects.update(callback_url=PASTED)
        address = url(subscription)
        answer = staff.post(address, sent(staff.get(address), method="POST"))
        assert answer.status_code == 200
        assert "Did you mean {click_id}?" in shown(answer)
        assert "Callbacks are still sent to this stored URL" not in shown(answer)
        assert Subscription.objects.get().method == "GET"

    def test_that_climbs_is_not_shown_as_a_request(self) -> None:
        assert preview("https://partner.example/.{event}/..{sub1}/{click_id}", method="GET")[0]
        rendered, found = preview("https://partner.example/{trigger}/{click_id}", "..")
        assert (rendered, len(found)) == ("", 1)


def _nothing_there(*args: Any, **kwargs: Any) -> str:
    from django.urls import NoReverseMatch

    raise NoReverseMatch


class TestATestCallback:
    @pytest.fixture(autouse=True)
    def _this_machine(self, settings: Any) -> None:
        settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]

    def test_shows_what_was_sent_and_what_came_back(self, staff: Client) -> None:
        with RawPartner(OK) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.post(url(subscription, "send_test"), follow=True)
            assert len(server.requests) == 1
        text = shown(page)
        assert "A test callback was sent." in text
        assert f"Request: GET {server.url}?v=0" in text
        assert "accepted HTTP 200." in text
        assert "Response: ok" in text
        assert said(subscription) == ["A test callback was sent."]

    def test_shows_the_answer_of_a_broken_partner_harmlessly(self, staff: Client) -> None:
        with RawPartner(NOT_FOUND) as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.post(url(subscription, "send_test"), follow=True)
        assert "failed" in shown(page)
        assert "HTTP 404" in shown(page)
        assert "<b>none</b>" not in page.text
        assert "&lt;b&gt;none&lt;/b&gt;!" in page.text

    def test_is_not_sent_by_looking(self, staff: Client) -> None:
        with RawPartner() as server:
            subscription = SubscriptionFactory(callback_url=server.url + "?v={visitor_id}")
            page = staff.get(url(subscription, "send_test"))
            assert server.requests == []
        assert f"Request that will be sent: GET {server.url}?v=0" in shown(page)

    def test_is_not_sent_to_what_is_no_callback_url(self, staff: Client) -> None:
        """As 0.12 could leave one."""
        subscription = SubscriptionFactory()
        for bad, mistake in (
            ("https://x.example/?c={clickid}", "Did you mean"),
            ("", "has no callback URL"),
        ):
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
        assert "Add {visitor_id} or {click_id}" in shown(page)

    def test_is_offered_where_there_is_somebody_to_call(self, staff: Client) -> None:
        with_url, without = SubscriptionFactory(), SubscriptionFactory(callback_url="")
        assert url(with_url, "send_test") in staff.get(url(with_url)).text
        assert url(without, "send_test") not in staff.get(url(without)).text


class TestASuspendedSubscription:
    def test_is_resumed_and_what_was_held_goes_out(self, staff: Client) -> None:
        callback = CallbackFactory()
        Subscription.objects.update(
            failure_count=10, failing_since=timezone.now(), callbacks_suspended_on=timezone.now()
        )
        subscription = callback.subscription
        resume = url(subscription, "resume")
        assert "Ask the partner" in shown(staff.get(resume))
        assert "paused" in shown(staff.get(url(callback)))
        page = staff.post(resume, follow=True)
        assert "1 paused callback is being sent." in shown(page)
        callback.refresh_from_db()
        subscription.refresh_from_db()
        assert (callback.status, subscription.callbacks_suspended_on) == ("queued", None)
        assert said(subscription) == ["Callbacks resumed. 1 paused callback is being sent."]
        assert "are not suspended" in shown(staff.get(resume))

    def test_is_seen_in_the_list(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        listed = url(Subscription)
        assert "OK" in shown(staff.get(listed))
        Subscription.objects.update(failure_count=2)
        assert "2 failures" in shown(staff.get(listed))
        Subscription.objects.update(callbacks_suspended_on=timezone.now())
        assert "suspended" in shown(staff.get(listed))
        Subscription.objects.update(callbacks_suspended_on=None, failure_count=0, callback_url="")
        assert "OK" not in shown(staff.get(listed))
        assert subscription.trigger in shown(staff.get(listed))

    def test_says_nothing_of_failures_after_a_late_success(self, staff: Client) -> None:
        subscription = SubscriptionFactory(callbacks_suspended_on=timezone.now())
        page = shown(staff.get(url(subscription)))
        assert "are suspended" in page
        assert "failed" not in page

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
    assert "accepted (HTTP 204)" in shown(page)
    assert url(callback) in page.text


def test_all_callbacks_of_a_subscription_are_a_click_away(staff: Client) -> None:
    callback, _other = CallbackFactory.create_batch(2)
    page = staff.get(url(callback.subscription))
    (address,) = re.findall(r'<a href="([^"]*)">All callbacks</a>', page.text)
    assert list(staff.get(address).context["cl"].result_list) == [callback]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "10.0.0.1"])
def test_saving_a_url_inside_this_network_says_what_to_do(host: str, staff: Client) -> None:
    subscription = SubscriptionFactory(callback_url=f"http://{host}/?v={{visitor_id}}")
    form = staff.get(url(subscription)).context["adminform"].form
    data = {field.html_name: field.value() or "" for field in form}

    page = shown(staff.post(url(subscription), data, follow=True))

    assert f"Callbacks to {host.partition(':')[0]} are not sent" in page
    assert 'AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8", "::1"]' in page


def test_a_stored_url_that_is_none_does_not_stand_in_the_way_of_saving(staff: Client) -> None:
    subscription = SubscriptionFactory()
    # As 0.12 could store it.
    other = SubscriptionFactory(partner=subscription.partner, trigger="User registered")
    Subscription.objects.filter(pk=other.pk).update(callback_url="http://[x/{visitor_id}")
    form = staff.get(url(subscription)).context["adminform"].form
    data = {field.html_name: field.value() or "" for field in form}

    assert "was changed successfully" in shown(staff.post(url(subscription), data, follow=True))


def test_the_list_says_until_when_callbacks_are_paused(staff: Client) -> None:
    SubscriptionFactory(callbacks_paused_until=timezone.now() + timedelta(hours=1))
    page = staff.get(reverse("admin:affiliations_subscription_changelist"))
    assert "paused until" in page.text


@pytest.mark.parametrize("host", ["8.8.8.8", "partner.example", "10.0.0.1"])
def test_only_an_address_inside_this_network_is_warned_of(host: str) -> None:
    assert addresses.is_blocked(host) is (host == "10.0.0.1")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "::1", "localhost", "LOCALHOST.", "shop.localhost", "db.internal",
     "nas.local", "nas.home.arpa"],
)  # fmt: skip
def test_a_private_name_is_not_called_unless_its_network_is_allowed(
    host: str, settings: Any
) -> None:
    assert addresses.is_blocked(host)
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8", "10.0.0.0/8", "::1"]
    assert not addresses.is_blocked(host)
    # Never called, whatever is allowed.
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["0.0.0.0/0"]
    assert addresses.is_blocked("169.254.169.254")


OURS = "affiliations.triggers.object_saved"
NO_AMOUNT = "The payout is a percentage, but the settings name no amount for this trigger"
NOT_TOLD = "Conversions are approved manually or by your shop, but no callback is sent then"
PERCENT = {"payout_type": "percent", "payout_value": 7}
MANUAL = {"approval": "manual", "call_on_approval": False}


class TestAWarning:
    @pytest.mark.parametrize(
        ("fields", "entry", "found"),
        [
            (PERCENT, (OURS, "testapp.Order"), {"payout_value"}),
            (PERCENT, (OURS, "testapp.Order", {"amount": "total"}), set()),
            (PERCENT, ("tests.test_asgi.sync_receiver", "testapp.Order"), set()),
            (PERCENT, None, set()),  # no longer in the settings
            ({"payout_type": "none"}, (OURS, "testapp.Order"), set()),
            (MANUAL, None, {"call_on_approval"}),
            (MANUAL | {"call_on_approval": True}, None, set()),
            (MANUAL | {"callback_url": ""}, None, set()),
            (MANUAL | {"active": False}, None, set()),
            ({"callback_url": "http://10.0.0.1/{visitor_id}"}, None, {"callback_url"}),
        ],
    )
    def test_is_of_what_is_hardly_intended(
        self, fields: dict[str, Any], entry: Any, found: set[str], settings: Any
    ) -> None:
        signal = "django.db.models.signals.post_save"
        settings.AFFILIATE_TRIGGERS = [("Order placed", signal, *entry)] if entry else []
        subscription = SubscriptionFactory(trigger="Order placed", **fields)
        assert set(of_subscription(subscription)) == found

    def test_is_shown_to_who_may_view_the_subscription(self) -> None:
        partner = SubscriptionFactory(trigger="Order placed", **PERCENT | MANUAL).partner
        for more, is_shown in (([], False), (["view_subscription"], True)):
            client = allowed("view_partner", "change_partner", *more)
            form = client.get(url(partner, "deal")).context["adminform"].form
            data = {field.html_name: field.value() or "" for field in form}
            counts = {"subscriptions-TOTAL_FORMS": 0, "subscriptions-INITIAL_FORMS": 0}
            saved = client.post(url(partner, "deal"), data | counts, follow=True)
            assert "changed successfully" in shown(saved)
            assert (NO_AMOUNT in shown(saved)) is is_shown

    def test_is_shown_on_saving_and_beside_the_field_and_in_the_list(self, staff: Client) -> None:
        subscription = SubscriptionFactory(trigger="Order placed", **PERCENT | MANUAL)
        form = staff.get(url(subscription)).context["adminform"].form
        data = {field.html_name: field.value() or "" for field in form}
        data["approval"] = "manual"
        saved = staff.post(url(subscription), data, follow=True)
        assert f"Order placed: {NO_AMOUNT}" in shown(saved)
        assert f"Order placed: {NOT_TOLD}" in shown(saved)
        for page in (staff.get(url(subscription)), staff.get(url(subscription.partner, "deal"))):
            assert page.text.count('class="aff-caution"') == 2
            assert NO_AMOUNT in shown(page)
            assert NOT_TOLD in shown(page)
        row = staff.get(reverse("admin:affiliations_subscription_changelist")).text
        assert "aff-warning" in row

    def test_is_beside_no_field_of_a_form_that_may_only_be_viewed(self) -> None:
        subscription = SubscriptionFactory(trigger="Order placed", **PERCENT | MANUAL)
        client = allowed("view_partner", "view_subscription")
        for page in (client.get(url(subscription)), client.get(url(subscription.partner, "deal"))):
            assert "Order placed" in shown(page)
            assert "aff-caution" not in page.text

    def test_costs_no_query_in_the_list(self, staff: Client) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                staff.get(reverse("admin:affiliations_subscription_changelist"))
            return len(captured)

        for _ in range(2):
            SubscriptionFactory(trigger="Order placed", **PERCENT | MANUAL)
        queries()
        few = queries()
        for _ in range(18):
            SubscriptionFactory(trigger="Order placed", **PERCENT | MANUAL)
        assert queries() == few

    def test_that_a_partner_is_inactive_is_beside_the_link_and_on_saving(
        self, staff: Client
    ) -> None:
        partner = SubscriptionFactory().partner
        text = "This partner is inactive: clicks are not tracked and nothing new is credited."
        assert text not in shown(staff.get(url(partner)))
        Partner.objects.update(active=False)
        assert text in shown(staff.get(url(partner)))
        form = staff.get(reverse("admin:affiliations_partner_add"))
        data = {"name": "Leaf & Cup", "users": "", "window": ""}
        for formset in form.context["inline_admin_formsets"]:
            prefix = formset.formset.prefix
            data |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
        saved = staff.post(reverse("admin:affiliations_partner_add"), data, follow=True)
        assert text in "".join(map(str, saved.context["messages"]))
        # What has stopped it is said already.
        Partner.objects.update(stopped_on=timezone.now())
        assert text not in shown(staff.get(url(partner)))
