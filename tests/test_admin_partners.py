"""The page of a partner, as the colleague who made the deal uses it."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    CallbackAttempt,
    Conversion,
    FilteredClicks,
    FollowedTestLink,
    Partner,
    UncreditedTrigger,
    Visitor,
)
from affiliations.testing import start_referral
from tests.arrivals import commit
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.settings import MANY_ROWS
from tests.test_admin import URL, allowed, partner_form, shown, url

pytestmark = pytest.mark.django_db


def page_url(partner: Partner, name: str) -> str:
    return url(partner, name)


def copied(page: Any) -> str:
    """Return what stands in the field that is there to be copied."""
    assert page.status_code == 200
    found = re.search(
        r'<input type="text"\s+id="aff-[\w-]+"[^>]*?\svalue="(.*?)"\s+readonly', page.text
    )
    assert found is not None
    return unescape(found[1])


def charts_of(page: Any) -> str:
    """Return the panel of the past days, without the icons of the Admin around it."""
    start = page.text.index('id="aff-recent"')
    return str(page.text[start : page.text.index("</section>", start)])


def said(row: Any) -> list[str]:
    """Return what the history of a row says, the oldest first."""
    entries = LogEntry.objects.filter(
        content_type__model=row._meta.model_name, object_id=str(row.pk)
    ).order_by("pk")
    return [entry.get_change_message() for entry in entries]


class TestTheNumbers:
    @pytest.fixture(autouse=True)
    def _of_one_partner(self, db: None) -> None:
        """Two clicks today and one long ago; one approved conversion, one rejected."""
        self.partner = PartnerFactory(name="Steep Notes")
        PartnerFactory(name="Nobody’s")
        visitors = VisitorFactory.create_batch(2, partner=self.partner)
        long_ago = timezone.now() - timedelta(days=60)
        VisitorFactory(partner=self.partner, referred_on=long_ago)
        VisitorFactory(partner=self.partner, is_test=True)
        for visitor, status in zip(visitors, ("approved", "rejected"), strict=True):
            ConversionFactory(
                visitor=visitor, status=status, payout="5.0000", payout_currency="EUR"
            )

    def cells(self, page: Any, name: str) -> list[str]:
        assert page.status_code == 200
        rows, _end, _total = page.text.partition("<tfoot>")
        return re.findall(f'class="field-{name}[^"]*">(.*?)</td>', rows)

    def test_are_in_the_list_for_the_past_thirty_days(self, staff: Client) -> None:
        page = staff.get(url(Partner))
        assert self.cells(page, "clicks") == ["0", "2"]
        assert self.cells(page, "conversions") == ["0", "1"]
        assert self.cells(page, "rate") == ["–", "50.00"]
        assert self.cells(page, "payout") == ["–", "5.00\xa0EUR"]
        assert self.cells(page, "per_click") == ["–", "2.50\xa0EUR"]
        assert self.cells(page, "last_click")[0] == "-"
        assert len(self.cells(page, "last_click")[1]) > 1

    @pytest.mark.parametrize(("days", "clicks"), [(7, "2"), (90, "3")])
    def test_are_of_the_period_that_is_chosen(self, days: int, clicks: str, staff: Client) -> None:
        since = (timezone.now() - timedelta(days=days)).date()
        page = staff.get(url(Partner), {"since": since})
        assert self.cells(page, "clicks") == ["0", clicks]
        until = (timezone.now() - timedelta(days=2)).date()
        page = staff.get(url(Partner), {"since": since, "until": until})
        assert self.cells(page, "clicks")[1] == str(int(clicks) - 2)

    @pytest.mark.parametrize(
        "query",
        [
            {"since": "2026-05-02", "until": "2026-05-01"},
            {"since": "2999-01-01"},
            {"until": "0001-01-01"},
            {"since": "abc"},
            {"since": "1900-01-01"},
            {"period": "decade"},
        ],
    )
    def test_are_of_no_period_that_there_is_not(self, query: dict[str, str], staff: Client) -> None:
        assert staff.get(url(Partner), query).status_code == 302

    def test_are_on_the_partners_page_day_by_day(self, staff: Client) -> None:
        text = shown(staff.get(url(self.partner)))
        assert (
            "Clicks 2 Conversions 1 Pending 0 Rejected 1 CR, % 50.00 "
            "Pending commission, EUR 0.00 Commission (approved), EUR 5.00 EPC, EUR 2.50"
        ) in text
        today = date_format(timezone.localdate(), "SHORT_DATE_FORMAT")
        assert f"{today} 2 1 0 1 50.00 0.00 5.00 2.50" in text

    def test_lead_to_what_they_count(self, staff: Client) -> None:
        page = staff.get(url(self.partner)).text
        for model in (Visitor, Conversion, Callback):
            assert f'href="{url(model)}?partner={self.partner.uid}"' in page

    def test_cost_as_many_queries_however_many_partners_there_are(self, staff: Client) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                staff.get(url(Partner))
            return len(captured)

        few = queries()
        for partner in PartnerFactory.create_batch(20):
            ConversionFactory(visitor=VisitorFactory(partner=partner))
        assert queries() == few


class TestTheTrackingLink:
    def test_leads_to_any_page_of_the_site(self, staff: Client) -> None:
        partner = PartnerFactory(uid="moox6esi")
        for typed, link in (
            ("", "http://testserver/?affiliate_id=moox6esi"),
            ("/shoes/", "http://testserver/shoes/?affiliate_id=moox6esi"),
            (
                "shoes/?color=red#new",
                "http://testserver/shoes/?color=red&affiliate_id=moox6esi#new",
            ),
            ("/blåbær/", "http://testserver/bl%C3%A5b%C3%A6r/?affiliate_id=moox6esi"),
            ("http://testserver/a/", "http://testserver/a/?affiliate_id=moox6esi"),
            ("https://www.shop.example/a", "https://www.shop.example/a?affiliate_id=moox6esi"),
        ):
            query = {"page": typed, "click_id": ""}
            assert copied(staff.get(url(partner), query)) == link
            answer = staff.get(page_url(partner, "link"), query).json()
            assert answer == {"link": link, "mistakes": []}

    @pytest.mark.parametrize(
        "page",
        ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "http://[", "ftp://x/"],
    )
    def test_leads_nowhere_else(self, page: str, staff: Client) -> None:
        partner = PartnerFactory(uid="moox6esi")
        query = {"page": page, "click_id": "{clickid}"}
        shown_page = staff.get(url(partner), query)
        assert copied(shown_page) == "http://testserver/?affiliate_id=moox6esi"
        assert "such as /shoes/" in shown(shown_page)
        answer = staff.get(page_url(partner, "link"), query).json()
        assert answer["link"] == ""
        assert len(answer["mistakes"]) == 1

    @pytest.mark.parametrize("allowed", [["*"], [".shop.example"], ["*", ".shop.example"]])
    @pytest.mark.parametrize(
        "page",
        [
            "https://evil.example/",
            "https://www.shop.example@evil.example/",
            "https://evil.example:1@www.shop.example/",
            "https://testserver@www.shop.example/",
            "https://evil.example\\.shop.example/",
            "https://evil.example\\@www.shop.example/",
        ],
    )
    def test_leads_nowhere_else_whatever_the_site_answers_at(
        self, allowed: list[str], page: str, staff: Client, settings: Any
    ) -> None:
        settings.ALLOWED_HOSTS = allowed
        query = {"page": page, "click_id": ""}
        answer = staff.get(
            page_url(PartnerFactory(), "link"), query, headers={"host": "www.shop.example"}
        )
        assert answer.json() == {
            "link": "",
            "mistakes": ["This page is not on this site. Enter a path, such as /shoes/."],
        }

    def test_leads_to_the_site_itself_where_it_answers_at_any_name(
        self, staff: Client, settings: Any
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        partner = PartnerFactory(uid="moox6esi")
        query = {"page": "http://own.example:8000/a/", "click_id": ""}
        answer = staff.get(page_url(partner, "link"), query, headers={"host": "own.example:8000"})
        assert answer.json()["link"] == "http://own.example:8000/a/?affiliate_id=moox6esi"

    def test_has_the_networks_own_macros_as_they_are(self, staff: Client, settings: Any) -> None:
        settings.AFFILIATE_CLICK_ID_KEY = "cid"
        partner = PartnerFactory(uid="moox6esi")
        query = {"page": "/", "click_id": "{clickid}", "sub1": "#s2#", "sub5": "a b&c"}
        link = "http://testserver/?affiliate_id=moox6esi&cid={clickid}&sub1=#s2#&sub5=a+b%26c"
        assert copied(staff.get(url(partner), query)) == link

    def test_shows_what_was_typed_again(self, staff: Client) -> None:
        query = {"page": "/teas/", "click_id": '{"}><script>'}
        page = staff.get(url(PartnerFactory()), query).text
        assert 'value="/teas/"' in page
        assert "&gt;&lt;script&gt;" in page
        assert "><script>{" not in page

    @pytest.mark.parametrize("bad", ["\0", "x" * 5000, "\u202e", "💥"])
    def test_is_never_a_failure_of_the_site(self, bad: str, staff: Client) -> None:
        partner = PartnerFactory()
        for name in ("page", "click_id", "sub3"):
            assert copied(staff.get(url(partner), {"page": "/", name: bad}))
            assert staff.get(page_url(partner, "link"), {"page": "/", name: bad}).json()

    def test_of_nobody_is_not_found(self, staff: Client) -> None:
        assert staff.get("/admin/affiliations/partner/0/link/").status_code == 404


class TestTryingTheDeal:
    def test_gives_a_link_through_which_somebody_comes_as_a_test(
        self, staff: Client, client: Client
    ) -> None:
        partner = PartnerFactory()
        SubscriptionFactory(partner=partner)
        page = staff.post(page_url(partner, "test_link"), {"page": "/page/", "click_id": "t-1"})
        client.get(copied(page), headers={"host": "testserver"})
        visitor = Visitor.objects.get()
        assert (visitor.is_test, visitor.click_id, visitor.partner) == (True, "t-1", partner)
        assert visitor.entry_point == "http://testserver/page/?click_id=t-1"
        assert said(partner) == ["Created a test link."]
        commit()
        again = staff.get(page_url(partner, "test_link"))
        assert url(visitor) in again.text

    def test_says_when_and_in_which_browser_it_was_followed(self, staff: Client) -> None:
        partner, now = PartnerFactory(), timezone.now()
        visitor = VisitorFactory(partner=partner, is_test=True)
        FollowedTestLink.objects.add(PartnerFactory(), "0", "bot", "Edge", None)
        FollowedTestLink.objects.add(partner, "1", "", "Firefox", visitor)
        FollowedTestLink.objects.update(followed_on=now - timedelta(minutes=5))
        FollowedTestLink.objects.add(partner, "1", "test_used", "", None)

        page = staff.get(page_url(partner, "test_link"))

        text = shown(page)
        time = date_format(timezone.localtime(now - timedelta(minutes=5)), "DATETIME_FORMAT")
        followed = f"{time}, Firefox: Visitor {visitor.pk}"
        assert followed in text
        assert f"{followed} , with a conversion" not in text
        assert (
            "unknown browser, not tracked: the test link was used before. "
            "Each link makes one test: create a new link with “Try this deal”." in text
        )
        assert text.index("unknown browser") < text.index("Firefox")
        assert "Edge" not in text
        Visitor.objects.update(successful_on=now)
        assert f"{followed} , with a conversion" in shown(staff.get(page.request["PATH_INFO"]))

    def test_says_which_referral_is_in_the_way(self, staff: Client) -> None:
        partner, competitor = PartnerFactory(), PartnerFactory(name="Steep & Notes")
        start_referral(staff, competitor)
        page = staff.post(page_url(partner, "test_link"), {"page": "/page/"})
        assert "has a click from “Steep & Notes” that can still be credited. A test" in shown(page)
        staff.get(copied(page), headers={"host": "testserver"})
        commit()
        real = Visitor.objects.get()
        page = staff.get(page_url(partner, "test_link"))
        assert (
            ", not tracked: the browser or the user has a click that can still be credited. "
            "A test does not replace a real click: open the link in a private window, and do not "
            f"log in there. Visitor {real.pk} (Steep & Notes)" in shown(page)
        )
        assert url(real) in page.text

    def test_links_to_no_visitor_for_those_who_may_see_none(self) -> None:
        partner, colleague = PartnerFactory(), UserFactory(is_staff=True)
        FollowedTestLink.objects.add(partner, "1", "", "Firefox", VisitorFactory(partner=partner))
        names = ["view_partner", "change_partner"]
        colleague.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(colleague)
        page = client.get(page_url(partner, "test_link"))
        visitor = Visitor.objects.get()
        assert f"Firefox: Visitor {visitor.pk}" in shown(page)
        assert url(visitor) not in page.text

    def test_reminds_of_consent_where_the_site_asks_for_it(
        self, staff: Client, settings: Any
    ) -> None:
        address = page_url(PartnerFactory(), "test_link")
        hint = "If the site asks, agree to be tracked."
        assert hint not in shown(staff.post(address, {"page": "/"}))
        settings.AFFILIATE_CONSENT = "tests.test_deal_links.undecided"
        assert hint in shown(staff.post(address, {"page": "/"}))

    def test_says_what_is_missing_first(self, staff: Client) -> None:
        partner = PartnerFactory(active=False)
        assert "is inactive" in shown(staff.get(page_url(partner, "test_link")))
        Partner.objects.update(active=True)
        assert "no active subscription" in shown(staff.get(page_url(partner, "test_link")))
        SubscriptionFactory(partner=partner)
        text = shown(staff.get(page_url(partner, "test_link")))
        assert "is inactive" not in text
        assert "no active subscription" not in text

    def test_does_nothing_before_it_is_asked_to(self, staff: Client) -> None:
        partner = PartnerFactory()
        page = staff.get(page_url(partner, "test_link"))
        assert "readonly" not in page.text
        evil = {"page": "https://evil.example/"}
        page = staff.post(page_url(partner, "test_link"), evil)
        assert "This page is not on this site." in shown(page)
        assert said(partner) == []


class TestTheSecret:
    def test_is_shown_on_demand_only_and_that_is_written_down(self, staff: Client) -> None:
        partner = PartnerFactory()
        for page in (url(partner), url(Partner), page_url(partner, "secret")):
            assert partner.signing_secret not in unescape(staff.get(page).text)
        page = staff.post(page_url(partner, "secret"), {"show": "Show"})
        assert copied(page) == partner.signing_secret
        assert "no-store" in page["Cache-Control"]
        assert said(partner) == ["Viewed the signing secret."]

    def test_is_replaced_by_another(self, staff: Client) -> None:
        partner = PartnerFactory()
        page = staff.post(page_url(partner, "secret"), {"replace": "Replace"})
        now = Partner.objects.get().signing_secret
        assert copied(page) == now != partner.signing_secret
        assert said(partner) == ["Replaced the signing secret."]

    def test_stays_where_nothing_is_asked(self, staff: Client) -> None:
        partner = PartnerFactory()
        staff.post(page_url(partner, "secret"))
        assert Partner.objects.get().signing_secret == partner.signing_secret
        assert said(partner) == []


class TestCreditingWithoutAClick:
    @pytest.fixture(autouse=True)
    def _partner(self, db: None) -> None:
        self.subscription = SubscriptionFactory(
            callback_url="https://partner.example/?c={click_id}"
        )
        self.page = page_url(self.subscription.partner, "credit")
        self.form = {
            "trigger": self.subscription.trigger,
            "click_id": "c-17",
            "reason": "The banner had no link.",
        }

    def test_registers_a_visitor_and_credits_it(self, staff: Client) -> None:
        assert self.page in staff.get(url(self.subscription.partner)).text
        assert "with a click of today" in shown(staff.get(self.page))
        answer = staff.post(self.page, self.form, follow=True)
        conversion = Conversion.objects.get()
        assert answer.redirect_chain[-1][0] == url(conversion)
        assert (conversion.visitor.click_id, conversion.visitor.is_test) == ("c-17", False)
        assert Callback.objects.get().url == "https://partner.example/?c=c-17"
        assert said(conversion) == ["Credited manually: The banner had no link."]
        assert said(conversion.visitor) == ["Registered manually."]

    def test_registers_nobody_where_it_was_counted_before(self, staff: Client) -> None:
        for _ in range(2):
            page = staff.post(self.page, self.form | {"reference": "1001"})
        assert "This was already credited." in shown(page)
        assert Visitor.objects.count() == Conversion.objects.count() == 1

    def test_is_for_those_who_may_add_conversions(self, client: Client) -> None:
        user = UserFactory(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename="change_partner"))
        client.force_login(user)
        for answer in (client.get(self.page), client.post(self.page, self.form)):
            assert answer.status_code == 403
        assert not Visitor.objects.exists()


class TestStoppingForFraud:
    def test_asks_why_before_anything_happens(self, staff: Client) -> None:
        conversion = ConversionFactory(status="pending")
        CallbackFactory(conversion=conversion)
        stop = page_url(conversion.partner, "stop_for_fraud")
        for page in (staff.get(stop), staff.post(stop, {"reason": ""})):
            text = shown(page)
            assert "1 pending conversion is rejected" in text
            assert "1 waiting callback is cancelled" in text
            assert "The link to the partner page no longer works." in text
            assert "Shown to the partner" in text
        conversion.refresh_from_db()
        assert conversion.status == "pending"
        assert conversion.partner.active
        assert said(conversion.partner) == []

    def test_ends_the_deal_and_tells_nobody(self, staff: Client) -> None:
        conversion = ConversionFactory(status="pending")
        callback = CallbackFactory(conversion=conversion)
        stop = page_url(conversion.partner, "stop_for_fraud")
        page = staff.post(stop, {"reason": "Cookie stuffing."}, follow=True)
        assert "Stopped for fraud, 1 conversion rejected: Cookie stuffing." in shown(page)
        conversion.refresh_from_db()
        callback.refresh_from_db()
        assert (conversion.status, conversion.reason) == ("rejected", "Cookie stuffing.")
        assert conversion.decided_by is not None
        assert callback.status == Callback.Status.CANCELLED
        assert not Partner.objects.get().active
        assert len(said(conversion.partner)) == 1


class TestWhatAPartnersPageTells:
    def test_the_past_days_as_charts_beside_the_table(self, staff: Client) -> None:
        subscription = SubscriptionFactory()
        page = staff.get(url(subscription.partner))
        assert "<svg" not in charts_of(page)
        assert "affiliations/charts.css" in page.text
        visitor = VisitorFactory(partner=subscription.partner)
        ConversionFactory(
            visitor=visitor,
            subscription=subscription,
            status="approved",
            payout=5,
            payout_currency="EUR",
        )
        page = staff.get(url(subscription.partner))
        titles = re.findall("<figcaption>(.*?)</figcaption>", charts_of(page))
        assert titles == ["Clicks", "Conversions", "Commission (approved), EUR"]
        assert charts_of(page).count("<svg") == 3

    def test_the_last_callbacks_and_how_they_ended(self, staff: Client) -> None:
        callback = CallbackFactory(status="exhausted", next_attempt_on=timezone.now())
        CallbackAttempt.objects.create(
            callback=callback,
            number=1,
            started_on=timezone.now(),
            duration_ms=9,
            status_code=503,
            error="http_status",
        )
        page = staff.get(url(callback.partner, "callbacks"))
        text = shown(page)
        assert "given up in the past 7 days 1" in text
        assert "returned an error (HTTP 503)" in text
        assert url(callback) in page.text
        assert "HTTP 503" not in shown(staff.get(url(PartnerFactory(), "callbacks")))

    def test_why_callbacks_are_suspended_and_where_they_are_resumed(self, staff: Client) -> None:
        callback = CallbackFactory()
        CallbackAttempt.objects.create(
            callback=callback, number=1, started_on=timezone.now(), duration_ms=1, error="dns"
        )
        now = timezone.now()
        subscription = callback.subscription
        type(subscription).objects.update(
            failure_count=12, failing_since=now - timedelta(days=4), callbacks_suspended_on=now
        )
        for row in (callback.partner, subscription):
            page = staff.get(url(row))
            text = shown(page)
            assert "Callbacks for “Order placed” are suspended." in text
            assert "12 callbacks failed in a row" in text
            assert "1 callback is paused" in text
            assert "the host name was not found" in text
            assert url(subscription, "resume") in page.text

    def test_until_when_callbacks_are_paused(self, staff: Client) -> None:
        subscription, until = SubscriptionFactory(), timezone.now() + timedelta(hours=1)
        fields = {"failing_since": timezone.now(), "callbacks_paused_until": until}
        type(subscription).objects.update(failure_count=1, **fields)
        text = shown(staff.get(url(subscription.partner)))
        moment = date_format(timezone.localtime(until), "DATETIME_FORMAT")
        assert f"Until {moment}, callbacks for “Order placed” are paused." in text

    def test_what_arrived_and_was_not_counted_and_why(self, staff: Client) -> None:
        visitor = VisitorFactory()
        partner, other = visitor.partner, PartnerFactory()
        for _ in range(3):
            FilteredClicks.objects.add(partner, Reason.BOT)
        FilteredClicks.objects.add(other, Reason.PREFETCH)
        now = timezone.now()
        UncreditedTrigger.objects.add(visitor, "Order placed", Reason.NO_REFERENCE, "A-1", now)
        page = staff.get(url(partner, "callbacks"))
        text = shown(page)
        assert "Arrived 4 Counted 1 Known bot or crawler 3" in text
        file = re.search(r'href="([^"]*csv/[^"]*)"', page.text)
        assert file
        response: Any = staff.get(unescape(file[1]))
        assert response.getvalue().decode("utf-8-sig").splitlines() == [
            "Result,Clicks",
            "Arrived,4",
            "Counted,1",
            "Known bot or crawler,3",
        ]
        assert "Fetched by a browser" not in text
        assert "The reference is missing, and the subscription counts every order A-1" in text
        assert url(visitor) in page.text
        assert "Arrived 0 Counted 0" in shown(staff.get(url(PartnerFactory(), "callbacks")))

    def test_nothing_of_it_where_a_partner_is_only_chosen(self, staff: Client) -> None:
        page = staff.get(url(PartnerFactory()), {"_popup": "1"}).text
        assert "aff-panel" not in page


class TestThePartsOfAPartnersPage:
    PARTS = {
        "change": ('id="aff-link"', 'id="aff-recent"'),
        "deal": ('name="name"', 'name="subscriptions-0-payout_value"'),
        "callbacks": ('id="aff-latest"', 'id="aff-filtered"'),
    }

    @pytest.mark.parametrize("part", PARTS)
    def test_show_what_is_theirs_and_lead_to_each_other(self, part: str, staff: Client) -> None:
        partner = SubscriptionFactory().partner
        page = staff.get(url(partner, part), {"since": "2026-01-01"}).text
        for other, signs in self.PARTS.items():
            assert [sign in page for sign in signs] == [other == part] * 2
            current = ' aria-current="page"' if other == part else ""
            assert f'<a href="{url(partner, other)}?since=2026-01-01"{current}>' in page
        for button in ("test_link", "history"):
            assert f'href="{url(partner, button)}"' in page

    @pytest.mark.parametrize("part", PARTS)
    def test_warn_of_what_concerns_the_whole_partner(self, part: str, staff: Client) -> None:
        subscription = SubscriptionFactory()
        now = timezone.now()
        type(subscription).objects.update(
            failure_count=12, failing_since=now, callbacks_suspended_on=now
        )
        Partner.objects.update(active=False, stopped_on=now, stopped_reason="Own orders")
        text = shown(staff.get(url(subscription.partner, part)))
        assert "Callbacks for “Order placed” are suspended." in text
        assert "Own orders" in text
        assert "Reactivate" in text

    @pytest.mark.parametrize("part", PARTS)
    def test_are_for_those_who_may_view_partners(self, part: str, staff: Client) -> None:
        partner = SubscriptionFactory().partner
        assert allowed("view_subscription").get(url(partner, part)).status_code == 403
        missing = url(partner, part).replace(f"/{partner.pk}/", "/0/")
        assert staff.get(missing).url == reverse("admin:index")
        page = allowed("view_partner").get(url(partner, part))
        assert page.status_code == 200
        assert 'type="submit" value="Save"' not in page.text
        assert url(partner, "secret") not in page.text

    @pytest.mark.parametrize("part", PARTS)
    def test_cost_as_many_queries_for_many_rows(self, part: str, staff: Client) -> None:
        partner, counts = PartnerFactory(), []
        for number in range(20):
            if number in (2, 19):
                with CaptureQueriesContext(connection) as captured:
                    staff.get(url(partner, part))
                counts.append(len(captured))
            visitor = VisitorFactory(partner=partner)
            subscription = SubscriptionFactory(partner=partner, trigger=f"Trigger {number}")
            conversion = ConversionFactory(visitor=visitor, subscription=subscription)
            CallbackFactory(conversion=conversion)
            FilteredClicks.objects.add(partner, Reason.BOT)
        assert counts[0] == counts[1] <= 25

    def test_that_have_mistakes_are_the_deal(self, staff: Client) -> None:
        partner = PartnerFactory()
        form = partner_form(name="", window="90")
        for part in ("change", "deal"):
            page = staff.post(url(partner, part), form).text
            assert "This field is required." in page
            assert 'name="window" value="90"' in page
            assert f'<a href="{url(partner, "deal")}" aria-current="page">' in page

    def test_continue_where_they_were_saved(self, staff: Client) -> None:
        partner = PartnerFactory()
        form = partner_form(name="x", _continue="1")
        assert staff.post(url(partner, "deal"), form).url == url(partner, "deal")
        added = staff.post(url(Partner, "add"), form)
        assert added.url == url(Partner.objects.latest("pk"), "deal")
        assert staff.post(url(partner, "deal"), partner_form()).url == url(Partner)


class TestANewPartner:
    def test_is_shown_with_the_link(self, staff: Client) -> None:
        added = f"{url(Partner, 'add')}?_changelist_filters=active__exact%3D1"
        page = staff.post(added, partner_form(name="Nook & Cranny"), follow=True)
        partner = Partner.objects.get()
        [(address, _status)] = page.redirect_chain
        assert address == f"{url(partner)}?_changelist_filters=active__exact%3D1"
        assert copied(page) == f"http://testserver/?affiliate_id={partner.uid}"
        assert "was added successfully" in shown(page)

    def test_is_not_where_the_user_may_not_view_it(self, staff: Client) -> None:
        added = allowed("add_partner").post(url(Partner, "add"), partner_form())
        assert added.url == reverse("admin:index")

    def test_is_followed_by_another(self, staff: Client) -> None:
        form = partner_form(_addanother="1")
        assert staff.post(url(Partner, "add"), form).url == url(Partner, "add")


def test_a_partner_is_not_switched_on_or_off_in_the_list(staff: Client) -> None:
    partner = PartnerFactory(active=False)
    assert 'name="form-0-active"' not in staff.get(url(Partner)).text
    form = {
        "form-TOTAL_FORMS": 1,
        "form-INITIAL_FORMS": 1,
        "form-0-id": partner.pk,
        "form-0-active": "on",
        "_save": "Save",
    }
    staff.post(url(Partner), form)
    assert not Partner.objects.get().active


@pytest.mark.slow
def test_every_page_costs_the_same_queries_however_many_rows_there_are(staff: Client) -> None:
    callback = CallbackFactory(status="queued", conversion__status="pending")
    conversion, partner = callback.conversion, callback.partner
    subscription = conversion.subscription
    now = timezone.now()
    type(subscription).objects.update(failing_since=now, callbacks_suspended_on=now)
    attempt = CallbackAttempt.objects.create(
        callback=callback, number=1, started_on=now, duration_ms=1, error="dns"
    )
    rows = [partner, subscription, conversion.visitor, conversion, callback, attempt]
    pages = [url(row) for row in rows] + [
        url(partner, "test_link"),
        url(partner, "stop_for_fraud"),
        url(partner, "secret"),
        url(partner, "credit"),
        url(partner, "page_link"),
        url(subscription, "send_test"),
        url(subscription, "resume"),
        url(conversion.visitor, "credit"),
        url(conversion, "approve"),
        url(conversion, "reject"),
        url(conversion, "reopen"),
        url(conversion, "adjust"),
        url(callback, "resend"),
        url(callback, "resend_anew"),
        url(callback, "cancel"),
    ]
    chosen = {"_selected_action": conversion.pk, "select_across": "1", "index": "0"}
    actions = {
        action: (url(model), chosen | {"action": action})
        for model, action in (
            (Conversion, "approve_selected"),
            (Conversion, "reject_selected"),
            (Callback, "resend_selected"),
            (Callback, "resend_selected_anew"),
            (Callback, "cancel_selected"),
        )
    }

    def more(count: int) -> dict[str, int]:
        Visitor.objects.bulk_create(
            Visitor(
                partner=partner,
                entry_point="https://shop.example/",
                is_test=True,
                previous=conversion.visitor,
            )
            for _ in range(count)
        )
        visitors = Visitor.objects.filter(partner=partner).order_by("-pk")[:count]
        Conversion.objects.bulk_create(
            Conversion(
                # A few of one visitor, as there may be.
                visitor=conversion.visitor if number < 20 else visitor,
                partner=partner,
                subscription=subscription,
                trigger="Order placed",
                status="pending",
                dedupe_key=f"v:{visitor.pk}",
            )
            for number, visitor in enumerate(visitors)
        )
        Callback.objects.bulk_create(
            Callback(
                conversion=one,
                subscription=subscription,
                partner=partner,
                url=URL,
            )
            for one in Conversion.objects.order_by("-pk")[:count]
        )
        last = CallbackAttempt.objects.filter(callback=callback).count()
        CallbackAttempt.objects.bulk_create(
            CallbackAttempt(
                callback=callback, number=number, started_on=now, duration_ms=1, error="dns"
            )
            for number in range(last + 1, last + 1 + min(count, 20))
        )
        UncreditedTrigger.objects.bulk_create(
            UncreditedTrigger(
                visitor=visitor, trigger="x", reason="no_reference", first_on=now, last_on=now
            )
            for visitor in visitors
        )
        FollowedTestLink.objects.bulk_create(
            FollowedTestLink(partner=partner, nonce=visitor.pk, visitor=visitor, followed_on=now)
            for visitor in visitors
        )
        costs = {}
        for page in pages:
            with CaptureQueriesContext(connection) as captured:
                assert staff.get(page).status_code == 200
            costs[page] = len(captured)
        for action, (address, form) in actions.items():
            with CaptureQueriesContext(connection) as captured:
                assert "This applies to" in shown(staff.post(address, form))
            costs[action] = len(captured)
        return costs

    more(0)  # from now on the content types are known
    few = more(10)
    assert more(MANY_ROWS) == few
    assert max(few.values()) <= 35


def test_the_old_secret_is_ended_by_a_button(staff: Client) -> None:
    partner = PartnerFactory()
    partner.replace_signing_secret()
    url = reverse("admin:affiliations_partner_secret", args=[partner.pk])
    assert 'name="end"' in staff.get(url).text

    page = staff.post(url, {"end": ""}, follow=True)

    partner.refresh_from_db()
    assert partner.signing_secrets() == [partner.signing_secret]
    assert 'name="end"' not in page.text


def test_who_was_not_stopped_has_no_word_of_it() -> None:
    assert PartnerFactory().stopped_display == ""
